//! Photos: never part of a read, looked at one by one, and known to have changed by the entry's stamp (S-50).

use base64ct::{Base64, Encoding as _};
use usher::bridge::Bridge as _;
use usher::bridge::ldap::LdapBridge;
use usher::config::{LdapAttributes, LdapSource};
use usher::directory::Snapshot;
use usher::ids::StableId;

use super::scripted::{BASE, lab, wants_users};
use super::source;
use super::stub::{Stub, base_or, done, entry};
use crate::lab::slapd::Slapd;

const ANN: &str = "cn=Ann,dc=lab,dc=test";
const CEM: &str = "cn=Cem,dc=lab,dc=test";
const EVE: &str = "cn=Eve,dc=lab,dc=test";

fn ids(names: &[&str]) -> Vec<StableId> {
    names.iter().map(|name| (*name).into()).collect()
}

#[tokio::test]
async fn active_directory_is_asked_for_stamps_and_then_for_small_pictures() {
    let person = |request: &_, dn: &str, id: &str, more: &[(&str, &[&str])]| {
        let own: [(&str, &[&str]); 3] = [("objectClass", &["user"]), ("uid", &[id]), ("entryUUID", &[id])];
        entry(request, dn, &[&own[..], more].concat())
    };
    let stub = Stub::start(move |request| {
        base_or(request, BASE, || match request.base.as_str() {
            ANN => {
                let both: [(&str, &[&str]); 3] =
                    [("whenChanged", &["3.0Z"]), ("jpegPhoto", &["large"]), ("thumbnailPhoto", &["GIF89a small"])];
                [entry(request, ANN, &both), done(request, 0, "")].concat()
            }
            CEM => done(request, 32, ""),
            _ if wants_users(request) => {
                let stamped: [(&str, &[&str]); 1] = [("whenChanged", &["2.0Z"])];
                [
                    person(request, ANN, "ann", &stamped),
                    person(request, CEM, "cem", &stamped),
                    person(request, EVE, "eve", &[]),
                    done(request, 0, ""),
                ]
                .concat()
            }
            _ => done(request, 0, ""),
        })
    })
    .await;
    let mut bridge = LdapBridge::with_photos(&lab(&stub)).unwrap();
    assert_eq!(bridge.photos(&ids(&["ann"])).await.unwrap(), [], "nobody was read yet");
    let snapshot = bridge.fetch().await.unwrap();
    let stamps: Vec<(&str, &str)> = snapshot.stamps.iter().map(|(id, stamp)| (id.as_str(), &**stamp)).collect();
    assert_eq!(stamps, [("ann", "2.0Z"), ("cem", "2.0Z")]);
    let notice = "1 person shows neither modifyTimestamp nor whenChanged (cn=Eve,dc=lab,dc=test): their photos are not looked at; \
                  give the bind user the right to read it";
    assert_eq!(snapshot.notices, [notice]);
    let asked = stub.asked_of(BASE).concat();
    assert!(asked.iter().any(|name| name == "whenchanged") && !asked.iter().any(|name| name.contains("photo")));

    let seen = bridge.photos(&ids(&["ann", "cem", "eve"])).await.unwrap();
    let [ann] = seen.as_slice() else { panic!("who cannot be seen is left out: {seen:?}") };
    assert_eq!((ann.id.as_str(), &*ann.stamp), ("ann", "3.0Z"), "the entry as it is now");
    assert_eq!(ann.photo.as_deref(), Some(&b"GIF89a small"[..]));
    let shown = format!("{ann:?}");
    assert!(shown.contains("12") && !shown.contains("small"), "{shown}");
    let wanted = ["thumbnailphoto", "jpegphoto", "entrycsn", "whenchanged", "modifytimestamp"];
    assert_eq!((stub.asked_of(ANN), stub.asked_of(EVE)), (vec![wanted.map(str::to_owned).to_vec()], Vec::new()));

    let mut plain = LdapBridge::new(&lab(&stub)).unwrap();
    let before = stub.asked_of(BASE).len();
    assert!(plain.fetch().await.unwrap().stamps.is_empty());
    assert!(!stub.asked_of(BASE)[before..].concat().iter().any(|name| name == "whenchanged"), "nobody wants photos");
    assert_eq!(plain.photos(&ids(&["ann"])).await.unwrap(), []);
}

#[tokio::test]
async fn a_changed_entry_has_another_stamp_and_the_photo_comes_whole() {
    let picture = |text: &str| [b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", text.as_bytes(), b"\xff\xd9"].concat();
    let encoded = |text: &str| Base64::encode_string(&picture(text));
    let person = |uid: &str, photo: &str| {
        format!(
            "dn: uid={uid},dc=example,dc=org\nobjectClass: inetOrgPerson\ncn: {uid}\nsn: {uid}\nuid: {uid}\n{photo}\n"
        )
    };
    let first = "a".repeat(100_000);
    let photo = format!("jpegPhoto:: {}\n", encoded(&first));
    let slapd = Slapd::start(&format!("{}{}", person("ann", &photo), person("bob", "")));
    let mut bridge = LdapBridge::with_photos(&source(&slapd.uri())).unwrap();
    let read = bridge.fetch().await.unwrap();
    let everybody = |read: &Snapshot| read.users.iter().map(|user| user.id.clone()).collect::<Vec<_>>();
    let of = |read: &Snapshot, name: &str| {
        let user = read.users.iter().find(|user| user.localpart.as_str() == name).unwrap();
        (user.id.clone(), read.stamps[&user.id].clone())
    };
    let seen = bridge.photos(&everybody(&read)).await.unwrap();
    let photo_of = |seen: &[usher::bridge::Sighting], name: &str| {
        let found = seen.iter().find(|sighting| sighting.id == of(&read, name).0).unwrap().clone();
        (found.stamp, found.photo)
    };
    assert_eq!(photo_of(&seen, "ann"), (of(&read, "ann").1, Some(picture(&first))));
    assert_eq!(photo_of(&seen, "bob"), (of(&read, "bob").1, None));

    slapd.modify(&format!(
        "dn: uid=ann,dc=example,dc=org\nchangetype: modify\nreplace: jpegPhoto\njpegPhoto:: {}\n",
        encoded("b")
    ));
    let seen = bridge.photos(&everybody(&read)).await.unwrap();
    let again = bridge.fetch().await.unwrap();
    assert_eq!(photo_of(&seen, "ann"), (of(&again, "ann").1, Some(picture("b"))), "the stamp of what was seen");
    assert_ne!(of(&again, "ann").1, of(&read, "ann").1);
    assert_eq!(of(&again, "bob").1, of(&read, "bob").1);

    let good = source(&slapd.uri());
    let attributes = LdapAttributes { avatar: Some("audio".to_owned()), ..good.attributes.clone() };
    let mut other = LdapBridge::with_photos(&LdapSource { attributes, ..good }).unwrap();
    let elsewhere = other.fetch().await.unwrap();
    assert_ne!(of(&elsewhere, "bob").1, of(&read, "bob").1, "another attribute holds other photos");
    assert!(other.photos(&everybody(&read)).await.unwrap().iter().all(|sighting| sighting.photo.is_none()));
}
