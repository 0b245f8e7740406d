//! Who usher is, and what it may do.

use usher::matrix::{Access, Homeserver, Promotion, Rung, Trouble};
use usher::observed::Known;
use usher::plan::Action;

use crate::contract::ground::{Ground, access};

pub async fn the_bot_registers_and_rises_from_rung_to_rung(ground: &Ground) {
    let homeserver = &ground.homeserver;
    assert_eq!(homeserver.rung().await.unwrap(), Rung::Rooms);
    assert!(!ground.proxy.seen().iter().any(|seen| seen.path.ends_with("/versions")), "asked of nobody");
    let before = homeserver.full().await.unwrap();
    assert_eq!(before.bot_registered, Known::Known(false));
    assert!(before.rooms.is_empty() && !before.accounts.listed);

    ground.do_and_compare(&Action::RegisterBot).await;
    ground.do_and_compare(&Action::RegisterBot).await;
    ground.do_and_compare(&Action::SetBotName { name: "Usher".to_owned() }).await;
    assert_eq!(homeserver.rung().await.unwrap(), Rung::Rooms);

    let root = ground.admin().await;
    let stranger = ground.person("stranger").await;
    homeserver.make_admin(&stranger.token.clone().into(), Promotion::Sender).await.unwrap_err();
    homeserver.make_admin(&root.token.clone().into(), Promotion::Sender).await.unwrap();
    assert_eq!(homeserver.rung().await.unwrap(), Rung::Admin);
    let after = homeserver.full().await.unwrap();
    assert!(after.accounts.listed);
    assert!(after.accounts.people[homeserver.sender()].admin && !after.accounts.people[homeserver.bot()].admin);
    assert!(!after.accounts.people[&stranger.user].admin);

    // A bot outside the registration's namespace cannot be acted as, whatever else the token may do.
    let elsewhere = Access { bot: "another-bot".into(), ..access(ground.proxy.url()) };
    let elsewhere = Homeserver::connect(elsewhere, &ground.registration).await.unwrap();
    assert_eq!(elsewhere.rung().await.unwrap(), Rung::ReadOnly);
    assert_eq!(elsewhere.full().await.unwrap_err().trouble, Trouble::Forbidden);
}

pub async fn puppets_are_ordinary_people_only(ground: &Ground) {
    let pip = ground.person("pip").await;
    let root = ground.admin().await;
    assert_eq!(ground.puppet_status(&pip.user).await, 200);
    for protected in [&root.user, ground.homeserver.bot(), ground.homeserver.sender()] {
        assert_eq!(ground.puppet_status(protected).await, 403, "{protected}");
    }
}
