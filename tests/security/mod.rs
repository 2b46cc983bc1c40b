//! Who may come in, what they may do, and what nobody may see: P38 to P40.
//!
//! | file | what it shows |
//! |---|---|
//! | `credentials` | each way to sign in, by the URL and by the builder, and that each is refused where it is wrong |
//! | `encryption` | the same of TLS |
//! | `discovery` | forged lists of servers before an encrypted connection |
//! | `roles`, `work` | the permissions of the docs: they suffice, each is needed, and the rest is denied |
//! | `replicated` | that they suffice on a cluster, too |
//! | `tenants` | users who are confined to a prefix of the keys |
//! | `denials` | what is denied is told as that, at once |
//! | `operation_ids` | ids cannot be predicted, and a foreign id is not an acknowledgement |
//! | `rollups` | a message that replaces all records of a bucket, and the setting against it |
//! | `secrets` | nothing secret in logs, errors and `Debug`, here and over the whole suite |
//! | `shared` | harm that a tenant can do to other tenants of its bucket |
//! | `authority` | certificates and tokens, made here |

mod authority;
mod credentials;
mod denials;
mod discovery;
mod encryption;
mod operation_ids;
mod replicated;
mod roles;
mod rollups;
mod secrets;
mod shared;
mod tenants;
mod work;

use std::fs;
use std::path::{Path, PathBuf};

use kvtyped::Connect;
use kvtyped::prelude::*;

use crate::support::{Session, in_time, unique};

/// How soon a denial is told, at the latest.
const SOON: Duration = Duration::from_millis(500);

/// How late a single denial may be told on a machine where many servers and tests share two cores: still far from what
/// would end it without that.
const BUSY: Duration = Duration::from_secs(3);

/// Far more than that: it is not the deadline that ends what is denied.
const PATIENT: Duration = Duration::from_secs(10);

/// Whoever connects so may write and read.
async fn is_let_in(what: &str, connect: Connect) -> Store {
    let store = connect.timeout(PATIENT).await.unwrap_or_else(|error| panic!("{what} is let in: {error:?}"));
    let sessions: Bucket<Session> = store.bucket().name(unique("guests")).await.expect("the bucket opens");
    sessions.put(&Session::new("acme", 7)).await.expect("it may be written");
    assert!(sessions.get(&Session::new("acme", 7).key()).await.expect("it may be read").is_some());
    store
}

/// Whoever connects so is told why not, at once.
async fn is_refused(what: &str, connect: Connect) -> Error {
    let refused = in_time(what, BUSY, connect.timeout(PATIENT)).await;
    refused.err().unwrap_or_else(|| panic!("{what} is refused"))
}

/// A folder of a test, which is removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("{}-{}", unique("security"), std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }

    /// A file with this content; its path.
    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).expect("a file can be written");
        path.to_str().expect("the path is text").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
