//! Both account backends pass the same suite: Synapse's own admin API on the fake homeserver, and Matrix Authentication Service's on a
//! stand-in that keeps the same fake homeserver's accounts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::{Value, json};
use usher::account::synapse::Synapse;
use usher::account::{ADDRESS_TAKEN, AccountBackend, Accounts, Link, Newcomer, Place, Shield, mas};
use usher::actuate::ActErrorKind;
use usher::config::Pattern;
use usher::ids::UserId;
use usher::ledger::keyed;
use usher::matrix::{Access, Homeserver, Trouble};
use usher::plan::{AccountDeed, Attribute, Emails, End};

use super::mas::{CLIENT, PROVIDER, SECRET, Scripted, StandIn};
use super::office::until;
use crate::fake::Fake;
use crate::lab::proxy::Fault;
use crate::lab::registered::registered;
use crate::lab::synapse::Person;

const SERVER: &str = "lab.test";

/// A homeserver in memory, usher's way to it, and some people.
pub struct Ground {
    pub fake: Fake,
    pub homeserver: Homeserver,
    stand_in: StandIn,
    /// A server admin.
    pub root: Person,
    pub people: Vec<Person>,
}

pub async fn ground() -> Ground {
    let folder = tempfile::tempdir().unwrap();
    let (main, puppet) = registered(folder.path(), SERVER);
    let fake = Fake::start(SERVER, &[&main, &puppet]).await;
    let root = fake.register_admin("root").await;
    let access = Access {
        instance: "main".to_owned(),
        server_name: SERVER.to_owned(),
        url: fake.url(),
        admin_url: None,
        bot: "usher".into(),
        admin_token: Some(root.token.clone().into()),
        max_rate: 1000,
    };
    let homeserver = Homeserver::connect(access, &main).await.unwrap().with_puppets(&puppet).unwrap();
    homeserver.ensure_users().await.unwrap();
    let stand_in = StandIn::start(&fake.url(), &root.token, SERVER).await;
    stand_in.add("root", true);
    let mut people = Vec::new();
    for name in ["ann", "ben", "cid", "dot"] {
        people.push(fake.register(name).await);
        stand_in.add(name, false);
    }
    Ground { fake, homeserver, stand_in, root, people }
}

impl Ground {
    pub fn synapse(&self) -> Box<dyn AccountBackend> {
        Box::new(Synapse::new(self.homeserver.clone()))
    }

    fn mas(&self, secret: &str) -> Box<dyn AccountBackend> {
        Box::new(self.service(secret))
    }

    fn service(&self, secret: &str) -> mas::Mas {
        let config = usher::config::Mas {
            url: self.stand_in.url.clone(),
            client_id: CLIENT.to_owned(),
            client_secret: secret.to_owned().into(),
        };
        mas::Mas::new(&config, self.homeserver.clone(), true).unwrap()
    }

    /// From the look after so many at an account on, the homeserver refuses to show one.
    fn blind_after(&self, looks: usize, (status, code): (u16, &'static str)) {
        let mut seen = 0;
        self.fake.spoil(move |request| {
            let look = request.method == "GET" && request.path.contains("/_synapse/admin/v2/users/");
            seen += usize::from(look);
            (look && seen > looks).then(|| Fault::Answer(status, json!({ "errcode": code, "error": "no" })))
        });
    }
}

fn emails(list: &[&str]) -> Emails {
    Emails(list.iter().map(|email| (*email).to_owned()).collect())
}

async fn session(person: &Person) -> u16 {
    person.call("GET", "/_matrix/client/v3/account/whoami", Value::Null).await.0
}

/// The suite.
async fn all(ground: &Ground, backend: &dyn AccountBackend) {
    let [ann, ben, cid, _] = ground.people.as_slice() else { panic!("four people") };
    let nobody = UserId::new("nobody", SERVER);
    assert_eq!(backend.look(&nobody).await.unwrap(), None);
    let seen = backend.look(&ann.user).await.unwrap().unwrap();
    assert!(!seen.locked && !seen.deactivated && !seen.admin && !seen.of_a_service);

    backend.lock(&ann.user).await.unwrap();
    assert!(backend.look(&ann.user).await.unwrap().unwrap().locked);
    assert_eq!(session(ann).await, 401, "the homeserver knows when the call is over");
    backend.unlock(&ann.user).await.unwrap();
    assert_eq!(session(ann).await, 200);

    backend.set_emails(&ann.user, &emails(&["a@x.org", "b@x.org"])).await.unwrap();
    backend.set_emails(&ann.user, &emails(&["b@x.org", "c@x.org"])).await.unwrap();
    let mut found = backend.look(&ann.user).await.unwrap().unwrap().emails.0;
    found.sort();
    assert_eq!(found, ["b@x.org", "c@x.org"]);
    assert_eq!(backend.owner_of_email("c@x.org").await.unwrap(), Some(ann.user.clone()));
    assert_eq!(backend.owner_of_email("a@x.org").await.unwrap(), None);

    backend.set_display_name(&ann.user, "Ann Example").await.unwrap();
    assert_eq!(backend.look(&ann.user).await.unwrap().unwrap().display_name.as_deref(), Some("Ann Example"));

    for url in [Some("mxc://lab.test/one"), Some("mxc://lab.test/two"), None] {
        backend.set_avatar(&ann.user, url).await.unwrap();
        assert_eq!(backend.look(&ann.user).await.unwrap().unwrap().avatar.as_deref(), url);
    }

    for (person, end) in [(ben, End::Erase), (cid, End::Deactivate)] {
        backend.end(&person.user, end).await.unwrap();
        let mut looks = 0;
        while !backend.has_ended(&person.user, end).await.unwrap() {
            looks += 1;
            assert!(looks < 100, "it never ends");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let seen = backend.look(&person.user).await.unwrap().unwrap();
        assert!(seen.deactivated && seen.erased == (end == End::Erase), "{seen:?}");
    }
    backend.reactivate(&cid.user).await.unwrap();
    assert!(!backend.look(&cid.user).await.unwrap().unwrap().deactivated);

    let link = Link { provider: PROVIDER.to_owned(), subject: "newcomer@idp".to_owned() };
    let user = UserId::new("newcomer", SERVER);
    let newcomer =
        Newcomer { user: user.clone(), display_name: Some("New Comer".to_owned()), link: Some(link.clone()) };
    assert_eq!(backend.owner_of_link(&link).await.unwrap(), None);
    let without_link = Newcomer { link: None, ..newcomer.clone() };
    // A first attempt that got half of it done, one that completes it, and one that finds everything there.
    for newcomer in [&without_link, &newcomer, &newcomer] {
        backend.register(newcomer).await.unwrap();
        assert!(backend.look(&user).await.unwrap().is_some(), "the homeserver knows when the call is over");
    }
    assert_eq!(backend.owner_of_link(&link).await.unwrap(), Some(user));
    let admins = backend.usable_admins().await.unwrap();
    assert!(admins.contains(&UserId::new("root", SERVER)) && !admins.contains(&ann.user), "{admins:?}");
    assert!(backend.look(ground.homeserver.bot()).await.unwrap().unwrap().of_a_service);
}

#[tokio::test]
async fn synapse_keeps_the_contract_of_accounts() {
    let ground = ground().await;
    all(&ground, ground.synapse().as_ref()).await;
}

#[tokio::test]
async fn matrix_authentication_service_keeps_the_contract_of_accounts() {
    let ground = ground().await;
    all(&ground, ground.mas(SECRET).as_ref()).await;
    assert_eq!(ground.stand_in.skipped_erasure("ben"), Some(false));
    assert_eq!(ground.stand_in.skipped_erasure("cid"), Some(true));
}

#[tokio::test]
async fn an_account_is_made_where_nobody_is_and_nowhere_else() {
    let ground = ground().await;
    let [ann, ben, cid, dot] = ground.people.as_slice() else { panic!("four people") };
    let shield = Shield { patterns: vec![Pattern::new("@audit.*").unwrap()], admins_are_open: false };
    for backend in [ground.synapse(), ground.mas(SECRET)] {
        backend.lock(&ben.user).await.unwrap();
        backend.end(&cid.user, End::Deactivate).await.unwrap();
        let link = Link { provider: PROVIDER.to_owned(), subject: "dot".to_owned() };
        let linked = Newcomer { user: dot.user.clone(), display_name: None, link: Some(link.clone()) };
        backend.register(&linked).await.unwrap();
        let hand = Accounts::new(backend, shield.clone(), ground.homeserver.clone());
        let place = async |user: &UserId, link: Option<Link>| {
            hand.place_of(&Newcomer { user: user.clone(), display_name: None, link }).await.unwrap()
        };
        let named = |name: &str| UserId::new(name, SERVER);
        assert_eq!(place(&named("nobody"), None).await, Place::Free);
        assert_eq!(place(&ann.user, None).await, Place::Taken);
        assert_eq!(place(&dot.user, Some(link.clone())).await, Place::Taken);
        assert_eq!(place(&ben.user, None).await, Place::Locked);
        assert_eq!(place(&cid.user, None).await, Place::Closed);
        let refused = async |user: &UserId, link: Option<Link>| match place(user, link).await {
            Place::Refused(why) => why,
            other => panic!("{user}: {other:?}"),
        };
        assert!(refused(&named("root"), None).await.contains("server admin"));
        assert!(refused(ground.homeserver.bot(), None).await.contains("usher's own"));
        assert!(refused(&named("audit-7"), None).await.contains("protected"), "also where nobody is");
        assert!(refused(&named("nobody"), Some(link)).await.contains("@dot:lab.test"), "one person, one account");
    }
}

#[tokio::test]
async fn an_expired_token_is_drawn_anew_and_a_wrong_secret_is_named() {
    let ground = ground().await;
    let backend = ground.mas(SECRET);
    let ann = &ground.people[0].user;
    assert!(backend.look(ann).await.unwrap().is_some());
    ground.stand_in.expire_tokens();
    assert!(backend.look(ann).await.unwrap().is_some());
    let error = ground.mas("wrong").look(ann).await.unwrap_err();
    assert_eq!(error.trouble, Trouble::UnknownToken);
    assert!(error.to_string().contains("accounts.mas.client_id") && !error.to_string().contains("wrong"), "{error}");
}

#[tokio::test]
async fn the_hand_refuses_alike_through_both() {
    let ground = ground().await;
    let [ann, ben, ..] = ground.people.as_slice() else { panic!("four people") };
    let root = UserId::new("root", SERVER);
    for backend in [ground.synapse(), ground.mas(SECRET)] {
        backend.set_emails(&ann.user, &emails(&["taken@x.org"])).await.unwrap();
        let hand = Accounts::new(backend, Shield::default(), ground.homeserver.clone());
        let kind = async |user: &UserId, deed: AccountDeed| hand.perform(user, &deed).await.unwrap_err().kind;
        assert_eq!(kind(&root, AccountDeed::Lock { id: None }).await, ActErrorKind::Forbidden);
        assert_eq!(kind(ground.homeserver.bot(), AccountDeed::Lock { id: None }).await, ActErrorKind::Forbidden);
        assert_eq!(kind(&ben.user, AccountDeed::Close(End::Erase)).await, ActErrorKind::Stale);
        let set = |list: &[&str]| AccountDeed::Set(Attribute::Emails { emails: emails(list), digest: keyed("", "") });
        let taken = hand.perform(&ben.user, &set(&["taken@x.org"])).await.unwrap_err();
        assert_eq!((taken.kind, taken.code.as_deref()), (ActErrorKind::Refused, Some(ADDRESS_TAKEN)));
        assert_eq!(kind(&ben.user, AccountDeed::RemovePushers).await, ActErrorKind::Stale, "not locked");
        hand.perform(&ann.user, &set(&[])).await.unwrap();
    }
    assert!(ground.fake.count() > 0);
}

const REFUSALS: [(u16, &str); 2] = [(403, "M_FORBIDDEN"), (401, "M_UNKNOWN_TOKEN")];

#[tokio::test]
async fn what_was_accepted_is_never_said_not_to_have_been_done() {
    for refusal in REFUSALS {
        let ground = ground().await;
        let [ann, ben, ..] = ground.people.as_slice() else { panic!("four people") };
        let hand = |backend| Accounts::new(backend, Shield::default(), ground.homeserver.clone());
        for (deed, locked) in [(AccountDeed::Lock { id: None }, true), (AccountDeed::Unlock, false)] {
            ground.blind_after(1, refusal);
            let error = hand(ground.mas(SECRET)).perform(&ann.user, &deed).await.unwrap_err();
            assert_eq!(error.kind, ActErrorKind::Retry, "{error}");
            ground.fake.behave();
            // The service's job tells the homeserver a moment later.
            let is_done = async || ground.synapse().look(&ann.user).await.unwrap().unwrap().locked == locked;
            until("it was done", is_done).await;
        }
        for (backend, person) in [(ground.synapse(), ann), (ground.mas(SECRET), ben)] {
            backend.lock(&person.user).await.unwrap();
            let (hand, close) = (hand(backend), AccountDeed::Close(End::Erase));
            // The first look finds it open, and what has come of it is not seen; then it is found ended, and not seen again.
            for _ in 0..2 {
                ground.blind_after(1, refusal);
                let error = hand.perform(&person.user, &close).await.unwrap_err();
                assert_eq!(error.kind, ActErrorKind::Retry, "{error}");
                ground.fake.behave();
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            hand.perform(&person.user, &close).await.unwrap();
            assert!(ground.synapse().look(&person.user).await.unwrap().unwrap().erased);
        }
    }
}

#[tokio::test]
async fn an_unlock_is_done_when_the_homeserver_knows_of_it_and_not_when_only_the_service_does() {
    let ground = ground().await;
    let ann = &ground.people[0];
    // The service was told before, and its job has not come through.
    ground.synapse().lock(&ann.user).await.unwrap();
    let hand = Accounts::new(ground.mas(SECRET), Shield::default(), ground.homeserver.clone());
    hand.perform(&ann.user, &AccountDeed::Unlock).await.unwrap();
    assert!(!ground.synapse().look(&ann.user).await.unwrap().unwrap().locked);
}

#[tokio::test]
async fn a_service_that_does_not_take_our_token_is_no_reason_to_stop_everything() {
    let ground = ground().await;
    let deed = AccountDeed::Lock { id: None };
    let hand = Accounts::new(ground.mas("wrong"), Shield::default(), ground.homeserver.clone());
    assert_eq!(hand.perform(&ground.people[0].user, &deed).await.unwrap_err().kind, ActErrorKind::Forbidden);
    let hand = Accounts::new(ground.synapse(), Shield::default(), ground.homeserver.clone());
    ground.blind_after(0, (401, "M_UNKNOWN_TOKEN"));
    let error = hand.perform(&ground.people[0].user, &deed).await.unwrap_err();
    assert_eq!(error.kind, ActErrorKind::Fatal, "the homeserver itself is");
}

#[tokio::test]
async fn every_server_admin_of_the_service_is_known_locked_or_not() {
    let ground = ground().await;
    ground.stand_in.add("boss", true);
    let boss = UserId::new("boss", SERVER);
    ground.fake.register("boss").await;
    let roster = mas::Roster::new(ground.service(SECRET));
    assert!(roster.admins().await.unwrap().contains(&boss));
    ground.mas(SECRET).lock(&boss).await.unwrap();
    assert!(roster.admins().await.unwrap().contains(&boss), "whoever locked them");
    assert!(!ground.mas(SECRET).usable_admins().await.unwrap().contains(&boss));
}

/// One admin, and whether there are more.
fn page(id: &str, more: bool) -> Value {
    let next = if more { json!("next") } else { Value::Null };
    json!({ "data": [{ "id": id, "attributes": { "username": id, "admin": true } }], "links": { "next": next } })
}

#[tokio::test]
async fn server_admins_are_listed_page_after_page_and_a_list_that_is_cut_short_is_an_error_and_no_list() {
    let ground = ground().await;
    let roster = mas::Roster::new(ground.service(SECRET));
    ground.stand_in.answer_admins(|query| {
        (200, page(if query.contains("after") { "boss" } else { "root" }, !query.contains("after")))
    });
    let all = ["boss", "root"].map(|name| UserId::new(name, SERVER)).into();
    assert_eq!(roster.admins().await.unwrap(), all);
    assert_eq!(ground.mas(SECRET).usable_admins().await.unwrap(), all);
    let broken: [Scripted; 5] = [
        |_| (404, json!({})),
        |_| (200, json!({ "errors": [] })),
        |query| if query.contains("after") { (404, json!({})) } else { (200, page("root", true)) },
        |query| if query.contains("after") { (500, json!({})) } else { (200, page("root", true)) },
        |_| (200, page("root", true)),
    ];
    for (number, answer) in broken.into_iter().enumerate() {
        ground.stand_in.answer_admins(answer);
        assert!(roster.admins().await.is_err(), "list {number}");
        assert!(
            ground.mas(SECRET).usable_admins().await.is_err(),
            "list {number}: nobody is locked for having seen nobody"
        );
    }
}
