//! Photos: never part of a read, looked at one by one, once a day (S-50).

use std::collections::BTreeSet;

use usher::bridge::msgraph::GraphBridge;
use usher::bridge::{Bridge as _, Sighting};
use usher::ids::StableId;

use super::{NEVER_SHOWN, anywhere, bridge, wanting};
use crate::lab::graph::{Fault, Graph, Photo, Tenant};

const PEOPLE: [&str; 5] = ["ann", "bob", "cem", "dora", "eva"];

fn looking(graph: &Graph) -> GraphBridge {
    GraphBridge::new(&graph.source(), usher::bridge::msgraph::Wanted { photos: true, ..wanting(&[]) }).unwrap()
}

fn ids(names: &[&str]) -> Vec<StableId> {
    names.iter().map(|name| format!("id-{name}").into()).collect()
}

fn picture(text: &str) -> Vec<u8> {
    [b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", text.as_bytes(), b"\xff\xd9"].concat()
}

/// What was seen of somebody's photo.
fn photo<'a>(seen: &'a [Sighting], name: &str) -> Result<Option<&'a [u8]>, &'static str> {
    let id = format!("id-{name}");
    seen.iter().find(|sighting| sighting.id.as_str() == id).map(|sighting| sighting.photo.as_deref()).ok_or("left out")
}

#[tokio::test]
async fn a_photo_comes_in_a_small_size_and_else_as_it_is() {
    let mut tenant = Tenant::of(&PEOPLE);
    tenant.photos.insert("id-ann".to_owned(), Photo::Sized(picture("small")));
    tenant.photos.insert("id-bob".to_owned(), Photo::Whole(picture("odd size")));
    tenant.photos.insert("id-dora".to_owned(), Photo::Sized(b"GIF89a\x01\x00\x01\x00\x80".to_vec()));
    let graph = Graph::start(tenant).await;
    let mut bridge = looking(&graph);
    let snapshot = bridge.fetch().await.unwrap();
    assert!(!graph.heard().iter().any(|heard| heard.path.contains("photo")), "no part of a read");
    let seen = bridge.photos(&ids(&PEOPLE)).await.unwrap();
    assert_eq!(photo(&seen, "ann"), Ok(Some(picture("small").as_slice())));
    assert_eq!(photo(&seen, "bob"), Ok(Some(picture("odd size").as_slice())));
    assert_eq!(["cem", "dora", "eva"].map(|name| photo(&seen, name)), [Ok(None); 3]);
    let order: Vec<&StableId> = seen.iter().map(|sighting| &sighting.id).collect();
    assert_eq!(order, ids(&PEOPLE).iter().collect::<Vec<_>>());
    for sighting in &seen {
        assert_eq!(snapshot.stamps.get(&sighting.id), Some(&sighting.stamp), "read and look agree on the day");
    }
    let asked: Vec<String> = graph.asked().into_iter().filter(|asked| asked.contains("id-ann")).collect();
    assert_eq!(asked, ["GET /users/id-ann/photos/240x240/$value"], "one request for who has a small one");
    assert_eq!(graph.asked().len(), 2 + 5 + 4, "and one more for each who has not");
}

#[tokio::test]
async fn where_nobody_wants_photos_nothing_is_asked() {
    let graph = Graph::start(Tenant::of(&PEOPLE)).await;
    let mut bridge = bridge(&graph.source(), &[]);
    assert!(bridge.fetch().await.unwrap().stamps.is_empty());
    assert_eq!((bridge.photos(&ids(&PEOPLE)).await.unwrap(), graph.asked().len()), (Vec::new(), 2));
}

#[tokio::test]
async fn who_cannot_be_seen_is_left_out_and_not_asked_again_that_day() {
    let refusals = [
        (404, "Request_ResourceNotFound"),
        (404, "MailboxNotEnabledForRESTAPI"),
        (404, "ErrorNonExistentMailbox"),
        (400, "AuthenticationError"),
        (404, "MailboxNotHostedInExchangeOnline"),
    ];
    let mut tenant = Tenant::of(&PEOPLE);
    for (name, (status, code)) in PEOPLE.iter().zip(refusals) {
        tenant.photos.insert(format!("id-{name}"), Photo::Refused(status, code));
    }
    let graph = Graph::start(tenant).await;
    let mut bridge = looking(&graph);
    assert_eq!(bridge.photos(&ids(&PEOPLE)).await.unwrap(), []);
    assert_eq!(graph.asked().len(), 5);
    assert_eq!((bridge.photos(&ids(&PEOPLE)).await.unwrap(), graph.asked().len()), (Vec::new(), 5));
    assert_eq!(bridge.photos(&ids(&["gone"])).await.unwrap(), [], "who is not there (any more)");
}

#[tokio::test]
async fn other_codes_for_no_photo_are_understood() {
    for code in ["ErrorItemNotFound", "GetUserPhoto"] {
        let mut tenant = Tenant::of(&["ann"]);
        tenant.photos.insert("id-ann".to_owned(), Photo::Refused(404, code));
        let seen = looking(&Graph::start(tenant).await).photos(&ids(&["ann"])).await.unwrap();
        assert_eq!(photo(&seen, "ann"), Ok(None), "{code}");
    }
}

#[tokio::test]
async fn a_missing_permission_says_nobody_has_a_photo_of_nobody() {
    let graph = Graph::start(Tenant { denied: ["photos"].into(), ..Tenant::of(&PEOPLE) }).await;
    let mut bridge = looking(&graph);
    for _ in 0..3 {
        bridge.photos(&ids(&PEOPLE)).await.unwrap_err();
    }
    let error = bridge.photos(&ids(&PEOPLE)).await.unwrap_err();
    let expected = "look at photos from http://graph: the app registration may not: give it the application permission User.Read.All (or \
                    ProfilePhoto.Read.All for photos alone) and grant admin consent [HTTP 403, Authorization_RequestDenied]";
    assert_eq!((anywhere(&error.to_string(), &graph).as_str(), error.retry), (expected, false));
    let text = format!("{error:?}");
    assert!(!NEVER_SHOWN.iter().any(|canary| text.contains(canary)), "{text}");
}

#[tokio::test]
async fn a_huge_photo_is_read_no_further_than_needed_to_say_so() {
    let mut tenant = Tenant::of(&["ann"]);
    tenant.photos.insert("id-ann".to_owned(), Photo::Sized(picture(&"x".repeat(3 << 20))));
    let seen = looking(&Graph::start(tenant).await).photos(&ids(&["ann"])).await.unwrap();
    let photo = usher::ledger::Photo::of(photo(&seen, "ann").unwrap().unwrap());
    assert_eq!((photo.size, photo.flaw()), ((1 << 20) + 1, Some("the photo is larger than 1 MiB")));
}

#[tokio::test]
async fn a_photo_that_breaks_off_is_no_photo_and_no_absence() {
    let mut tenant = Tenant::of(&["ann"]);
    tenant.photos.insert("id-ann".to_owned(), Photo::Sized(picture("small")));
    let graph = Graph::start(tenant).await;
    let mut bridge = looking(&graph);
    graph.spoil(|heard| heard.path.contains("photo").then_some(Fault::Cut));
    bridge.photos(&ids(&["ann"])).await.unwrap_err();
    graph.spoil(|heard| (heard.path.contains("photo") && heard.before < 5).then_some(Fault::Cut));
    assert_eq!(photo(&bridge.photos(&ids(&["ann"])).await.unwrap(), "ann"), Ok(Some(picture("small").as_slice())));
}

#[tokio::test]
async fn what_was_seen_before_a_failure_is_kept() {
    let mut tenant = Tenant::of(&PEOPLE);
    for name in ["ann", "bob", "cem"] {
        tenant.photos.insert(format!("id-{name}"), Photo::Sized(picture(name)));
    }
    let graph = Graph::start(tenant).await;
    graph.spoil(|heard| heard.path.contains("id-dora").then(|| Fault::throttle("3600")));
    let mut bridge = looking(&graph);
    let seen = bridge.photos(&ids(&PEOPLE)).await.unwrap();
    assert_eq!(["ann", "bob", "cem", "dora"].map(|name| photo(&seen, name).is_ok()), [true, true, true, false]);
    let error = bridge.photos(&ids(&["dora", "eva"])).await.unwrap_err();
    assert!(error.retry && error.cause.contains("Graph wants to be asked less often"), "{error}");
}

#[tokio::test]
async fn one_person_at_whom_graph_always_fails_keeps_nobody_else_from_being_seen() {
    for fault in [|| Fault::error(403, "ErrorAccessDenied"), || Fault::error(500, "generalException")] {
        let mut tenant = Tenant::of(&PEOPLE);
        tenant.photos.insert("id-eva".to_owned(), Photo::Sized(picture("eva")));
        let graph = Graph::start(tenant).await;
        graph.spoil(move |heard| heard.path.contains("id-ann").then(fault));
        let mut bridge = looking(&graph);
        let seen = bridge.photos(&ids(&PEOPLE)).await.unwrap();
        assert_eq!(photo(&seen, "ann"), Err("left out"));
        assert_eq!(photo(&seen, "eva"), Ok(Some(picture("eva").as_slice())));
        graph.forget();
        assert_eq!(
            (bridge.photos(&ids(&["ann"])).await.unwrap(), graph.asked().len()),
            (Vec::new(), 0),
            "not again today"
        );
    }
}

#[tokio::test]
async fn stamps_are_of_two_days_at_most() {
    let names: Vec<String> = (0..200).map(|number| format!("p{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let snapshot = looking(&Graph::start(Tenant::of(&names)).await).fetch().await.unwrap();
    let days: BTreeSet<&str> = snapshot.stamps.values().map(|stamp| &**stamp).collect();
    // One, while no day of anybody's ends.
    assert!(snapshot.stamps.len() == 200 && (1..=2).contains(&days.len()), "{days:?}");
}
