//! Golden files of schemas and examples.

use std::fs;
use std::path::PathBuf;

use kvtyped::codec::{Codec, Json};
use kvtyped::schema::Schema;
use kvtyped::schema::golden::{Golden, GoldenVersion, Missing};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct UserV1 {
    name: String,
}

#[derive(Serialize, Deserialize)]
struct User {
    name: String,
    email: Option<String>,
}

/// The shape of `User` with one more required field.
#[derive(Deserialize)]
#[allow(dead_code)]
struct Changed {
    name: String,
    email: Option<String>,
    age: u8,
}

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn decode(version: u32, bytes: &[u8]) -> Result<(), String> {
    match version {
        1 => <Json as Codec<UserV1>>::decode(bytes).map(drop).map_err(|error| error.to_string()),
        2 => <Json as Codec<User>>::decode(bytes).map(drop).map_err(|error| error.to_string()),
        _ => Err(format!("version {version}; this program reads 1 to 2")),
    }
}

fn golden() -> Golden<'static> {
    let version = |version, schema| GoldenVersion { version, codec: "json", schema };
    let versions = vec![version(1, Schema::probe::<UserV1>()), version(2, Schema::probe::<User>())];
    Golden { model: "user", versions, decode }
}

fn example() -> Vec<u8> {
    Json::encode(&User { name: "ada".to_owned(), email: None }).unwrap()
}

#[test]
fn missing_files_are_reported_or_written() {
    let directory = Directory::new("missing");
    let error = golden().verify(&directory.0, &[example()], Missing::Refuse).unwrap_err();
    for name in ["user.1.schema.json", "user.2.schema.json", "user.2.json"] {
        let advice = format!("`{name}` is missing; run the test with KVTYPED_GOLDEN=write and commit the file");
        assert!(error.contains(&advice), "{error}");
    }
    assert!(directory.names().is_empty());

    golden().verify(&directory.0, &[example(), example()], Missing::Write).unwrap();
    assert_eq!(directory.names(), ["user.1.schema.json", "user.2.2.json", "user.2.json", "user.2.schema.json"]);
    golden().verify(&directory.0, &[example()], Missing::Refuse).unwrap();
    golden().verify(&directory.0, &[], Missing::Refuse).unwrap();
    golden().check(&directory.0, &[example()]);
}

#[test]
fn changed_schema_is_reported_and_never_overwritten() {
    let directory = Directory::new("changed");
    golden().verify(&directory.0, &[], Missing::Write).unwrap();
    let stored = fs::read(directory.0.join("user.2.schema.json")).unwrap();
    let mut changed = golden();
    changed.versions[1].schema = Schema::probe::<Changed>();
    for missing in [Missing::Refuse, Missing::Write] {
        let error = changed.verify(&directory.0, &[], missing).unwrap_err();
        assert!(error.contains("the schema of version 2 changed"), "{error}");
        assert!(error.contains("BACKWARD: stored records without `age` cannot be read"), "{error}");
        assert_eq!(fs::read(directory.0.join("user.2.schema.json")).unwrap(), stored);
    }
    let panic = std::panic::catch_unwind(|| changed.check(&directory.0, &[])).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().starts_with("golden files of model `user` in "));
}

#[test]
fn examples_of_all_versions_must_be_readable() {
    let directory = Directory::new("examples");
    golden().verify(&directory.0, &[example()], Missing::Write).unwrap();
    fs::write(directory.0.join("user.1.json"), r#"{"name":"old"}"#).unwrap();
    fs::write(directory.0.join("users.1.json"), "another model").unwrap();
    golden().verify(&directory.0, &[example()], Missing::Refuse).unwrap();

    fs::write(directory.0.join("user.1.json"), r#"{"title":"old"}"#).unwrap();
    let error = golden().verify(&directory.0, &[], Missing::Refuse).unwrap_err();
    assert!(
        error.contains("`user.1.json`, a record of version 1, cannot be read: json: missing field `name`"),
        "{error}"
    );

    fs::write(directory.0.join("user.1.json"), r#"{"name":"old"}"#).unwrap();
    fs::write(directory.0.join("user.0.json"), r#"{"name":"old"}"#).unwrap();
    let error = golden().verify(&directory.0, &[], Missing::Refuse).unwrap_err();
    assert!(error.contains("put the version back, or delete its files"), "{error}");

    fs::rename(directory.0.join("user.0.json"), directory.0.join("user.3.schema.json")).unwrap();
    let error = golden().verify(&directory.0, &[], Missing::Refuse).unwrap_err();
    assert!(error.contains("`user.3.schema.json` belongs to a newer version than 2"), "{error}");
}

#[test]
fn changed_encoding_is_reported() {
    let directory = Directory::new("encoding");
    golden().verify(&directory.0, &[example()], Missing::Write).unwrap();
    let mut with_line_end = example();
    with_line_end.push(b'\n');
    fs::write(directory.0.join("user.2.json"), with_line_end).unwrap();
    golden().verify(&directory.0, &[example()], Missing::Refuse).unwrap();
    let other = Json::encode(&User { name: "bob".to_owned(), email: None }).unwrap();
    let error = golden().verify(&directory.0, &[other], Missing::Write).unwrap_err();
    assert!(
        error.contains("`user.2.json` has other bytes than the encoded example") && error.contains("`HashMap`"),
        "{error}"
    );
}

#[test]
fn unreadable_schema_file_is_reported() {
    let directory = Directory::new("unreadable");
    golden().verify(&directory.0, &[], Missing::Write).unwrap();
    fs::write(directory.0.join("user.2.schema.json"), "{}").unwrap();
    let error = golden().verify(&directory.0, &[], Missing::Refuse).unwrap_err();
    assert!(error.contains("`user.2.schema.json`: the schema cannot be read"), "{error}");
}
