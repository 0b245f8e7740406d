//! Photos of a real `OpenLDAP` as avatars on a real Synapse: set, changed, taken away, left where somebody chose another one, and neither
//! read nor written where nothing changed (S-50).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::kills::{Cut, Kind, count, killed_at};
use super::world::{NAMES, World};
use crate::lab::proxy::Fault;
use crate::lab::slapd::{BASE, PASSWORD, ROOT_DN, Slapd};
use crate::lab::synapse::escape;

/// Part of every photo: must never be printed.
pub const CANARY: &str = "canary-photo-bytes";

/// Passes everything on to a directory server, and keeps what was asked.
struct Ear {
    uri: String,
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Ear {
    async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("ldap://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let ((mut from, mut back), (mut answers, mut to)) = (client.into_split(), server.into_split());
                    let listening = async {
                        let mut chunk = [0; 16_384];
                        while let Ok(length @ 1..) = from.read(&mut chunk).await {
                            kept.lock().unwrap().push(chunk[..length].to_vec());
                            to.write_all(&chunk[..length]).await?;
                        }
                        to.shutdown().await
                    };
                    let _ = tokio::join!(listening, tokio::io::copy(&mut answers, &mut back));
                });
            }
        });
        Self { uri, asked }
    }

    /// How often an attribute was asked for since the last time: the client waits for each answer, so that each chunk is one request.
    fn heard(&self, attribute: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        let names = |request: &&Vec<u8>| request.windows(attribute.len()).any(|part| part == attribute.as_bytes());
        asked.iter().filter(names).count()
    }

    fn forget(&self) {
        self.asked.lock().unwrap().clear();
    }
}

pub fn picture(text: &str) -> Vec<u8> {
    let start = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00";
    [&start[..], CANARY.as_bytes(), text.as_bytes(), b"\xff\xd9"].concat()
}

fn encoded(text: &str) -> String {
    Base64::encode_string(&picture(text))
}

/// A directory of the world's people, of whom three have photos; the last one's is too large.
fn company(world: &World) -> String {
    let mut ldif = String::new();
    let huge = "x".repeat(1 << 20);
    for name in NAMES {
        let uid = world.local(name);
        let _ = write!(ldif, "dn: uid={uid},{BASE}\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {name}\nsn: {name}\n");
        if let Some((_, text)) = [("ann", "grey"), ("bob", "blue"), ("cat", &huge)].iter().find(|it| it.0 == name) {
            let _ = writeln!(ldif, "jpegPhoto:: {}", encoded(text));
        }
        ldif.push('\n');
    }
    ldif
}

pub async fn wanting(mode: &str, world: &mut World) {
    world.config["userProvisioner"] = json!({ "avatar": mode });
    world.write();
    world.proxy.clear();
    world.usher(&["apply", "--yes"]).await.code(0);
}

/// Uploads and changed accounts, and how many other writes there were.
pub fn avatar_writes(world: &World) -> ([usize; 2], usize) {
    let writes = world.proxy.writes();
    let count = |class: &str| writes.iter().filter(|write| *write == class).count();
    let counts = [count("POST /_matrix/media/v3/upload"), count("PUT /admin/v2/users/{}")];
    (counts, writes.len() - counts.iter().sum::<usize>())
}

/// What somebody's avatar shows, if they have one.
pub async fn shown(world: &World, name: &str) -> Option<Vec<u8>> {
    let account = world.account(name).await;
    let media = account["avatar_url"].as_str()?.strip_prefix("mxc://").expect("a content URI").to_owned();
    let url = format!("{}/_matrix/client/v1/media/download/{media}", world.stage.url());
    let answer = world.http.get(url).bearer_auth(&world.tokens["dan"]).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["content-type"]), (200, &"image/jpeg".parse().unwrap()));
    Some(answer.bytes().await.unwrap().to_vec())
}

fn change(world: &World, name: &str, what: &str) -> String {
    format!("dn: uid={},{BASE}\nchangetype: modify\n{what}\n\n", world.local(name))
}

/// A world whose source is a real directory that is listened to.
async fn office() -> (World, Slapd, Ear) {
    let mut world = World::new().await;
    let slapd = Slapd::start(&company(&world));
    let ear = Ear::before(slapd.port()).await;
    world.secrets.extend([PASSWORD.to_owned(), CANARY.to_owned()]);
    world.config["source"] = json!({
        "type": "ldap", "path": null, "uri": ear.uri, "base": BASE, "bind_dn": ROOT_DN, "bind_password": PASSWORD,
    });
    world.config["provisioner"]["default_rooms"] = json!([]);
    world.config["spaces"] = json!([{ "id": "org", "name": "Company", "groups": [{ "externalId": "" }] }]);
    world.write();
    (world, slapd, ear)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn photos_become_avatars_and_are_looked_at_once() {
    let (mut world, slapd, ear) = office().await;
    world.usher(&["plan"]).await.code(2);
    assert!(ear.heard("uid") > 0, "it is listened to");
    assert_eq!((ear.heard("entrycsn"), ear.heard("jpegphoto")), (0, 0), "nobody wants photos");

    // The very first pass: the bot that uploads is made in it.
    wanting("always", &mut world).await;
    assert_eq!(avatar_writes(&world).0, [2, 2]);
    assert_eq!(ear.heard("jpegphoto"), NAMES.len(), "everybody is looked at once");
    assert_eq!(shown(&world, "ann").await, Some(picture("grey")));
    assert_eq!(shown(&world, "bob").await, Some(picture("blue")));
    assert_eq!((shown(&world, "cat").await, shown(&world, "dan").await), (None, None));
    world.usher(&["plan"]).await.code(0).says("set avatar").says("larger than 1 MiB");
    ear.forget();
    world.must_be_settled().await;
    assert_eq!(ear.heard("jpegphoto"), 0, "what has not changed is not read again");

    slapd.modify(&change(&world, "ann", &format!("replace: jpegPhoto\njpegPhoto:: {}", encoded("white"))));
    slapd.modify(&change(&world, "bob", "replace: sn\nsn: Baker"));
    wanting("always", &mut world).await;
    assert_eq!((avatar_writes(&world), ear.heard("jpegphoto")), (([1, 1], 0), 2));
    assert_eq!(shown(&world, "ann").await, Some(picture("white")));

    slapd.modify(&change(&world, "ann", &format!("replace: jpegPhoto\njpegPhoto:: {}", encoded("pink"))));
    let too_large = json!({ "errcode": "M_TOO_LARGE", "error": "Upload request body is too large" });
    world.proxy.spoil(move |seen| seen.path.ends_with("/upload").then(|| Fault::Answer(413, too_large.clone())));
    world.usher(&["apply", "--yes"]).await.code(4).says("M_TOO_LARGE");
    world.proxy.behave();
    world.must_be_settled().await;
    world.usher(&["plan"]).await.code(0).says("the homeserver does not take this photo");
    world.usher(&["plan", "--json"]).await.code(0).says("set_avatar").says("sha256");
    assert_eq!(shown(&world, "ann").await, Some(picture("white")), "the last one it took");

    let own = format!("/_matrix/client/v3/profile/{}/avatar_url", escape(&world.user("bob")));
    let chosen = json!({ "avatar_url": "mxc://lab.test/own" });
    assert_eq!(world.as_person("bob", "PUT", &own, chosen).await.0, 200);
    wanting("initial", &mut world).await;
    assert_eq!(avatar_writes(&world), ([0, 0], 0));
    for name in ["ann", "bob"] {
        slapd.modify(&change(&world, name, "delete: jpegPhoto"));
    }
    wanting("initial", &mut world).await;
    assert_eq!(avatar_writes(&world), ([0, 1], 0));
    assert_eq!(world.account("ann").await["avatar_url"], Value::Null);
    assert_eq!(world.account("bob").await["avatar_url"], "mxc://lab.test/own", "he chose it himself");
    world.must_be_settled().await;
    let audited = world.usher(&["audit", "tail", "200"]).await;
    audited.code(0).says("set avatar").says("remove avatar").says("upload photo").says("M_TOO_LARGE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usher_killed_around_an_upload_or_an_avatar_sets_it_once_and_knows_it_for_its_own() {
    let uploads: Kind = |seen| seen.path.ends_with("/media/v3/upload");
    let avatars: Kind = |seen| seen.path.contains("/v2/users/") && seen.body.get("avatar_url").is_some();
    let (mut world, slapd, _ear) = office().await;
    wanting("always", &mut world).await;
    for (cut, words) in [(Cut::Before, ["white", "pink"]), (Cut::After, ["black", "green"])] {
        for (kind, word) in [uploads, avatars].into_iter().zip(words) {
            slapd.modify(&change(&world, "ann", &format!("replace: jpegPhoto\njpegPhoto:: {}", encoded(word))));
            world.proxy.clear();
            killed_at(&world, 0, kind, cut).await;
            world.usher(&["apply", "--yes"]).await.code(0);
            // A photo whose place nobody was told is uploaded anew: a picture more among the homeserver's media, which does no harm.
            let expected = if word == words[0] { (1, 1) } else { (1, cut.again()) };
            assert_eq!((count(&world, uploads), count(&world, avatars)), expected, "{word} {cut:?}");
            assert_eq!(shown(&world, "ann").await, Some(picture(word)));
            world.usher(&["plan"]).await.code(0).says("larger than 1 MiB");
        }
    }
    // The last of them was cut, and is known to be usher's all the same.
    slapd.modify(&change(&world, "ann", "delete: jpegPhoto"));
    wanting("always", &mut world).await;
    assert_eq!(world.account("ann").await["avatar_url"], Value::Null);
}
