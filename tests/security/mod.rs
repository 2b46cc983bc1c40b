//! Authentication, permissions and secrets: P38 to P40.
//!
//! | file | content |
//! |---|---|
//! | `credentials` | each authentication method, by URL and by builder, with valid and invalid credentials |
//! | `encryption` | the same for TLS |
//! | `discovery` | forged lists of servers before an encrypted connection |
//! | `roles`, `work` | the documented permissions: they suffice, each is required, and everything else is denied |
//! | `replicated` | the documented permissions suffice on a cluster, too |
//! | `tenants` | users who are restricted to a key prefix |
//! | `denials` | a denied operation fails at once with `PermissionDenied` |
//! | `operation_ids` | ids cannot be predicted, and a foreign id is not an acknowledgement |
//! | `rollups` | a message that replaces all records of a bucket, and the setting against it |
//! | `secrets` | no secrets in logs, errors and `Debug` output, here and over the whole suite |
//! | `shared` | harm that a tenant can do to other tenants of its bucket |
//! | `authority` | test certificates and tokens |
//! | `account` | harm that any user with a documented set can do to the whole account |

mod account;
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

use kvtyped::Error;
use kvtyped::connect::Connect;
use kvtyped::prelude::*;

use crate::support::{Session, in_time, unique};

/// The time limit for the report of a denial.
const SOON: Duration = Duration::from_millis(500);

/// The time limit for a single denial on a loaded machine, where many servers and tests share two cores. It is still
/// far below the operation timeout.
const BUSY: Duration = Duration::from_secs(3);

/// An operation timeout far above [`BUSY`], so that a denied operation does not end by its timeout.
const PATIENT: Duration = Duration::from_secs(10);

/// Asserts that a connection succeeds, and that it may write and read.
async fn is_let_in(what: &str, connect: Connect) -> Store {
    let store = connect.timeout(PATIENT).await.unwrap_or_else(|error| panic!("{what} is let in: {error:?}"));
    let sessions: Bucket<Session> = store.bucket().name(unique("guests")).await.expect("the bucket opens");
    sessions.put(&Session::new("acme", 7)).await.expect("it may be written");
    assert!(sessions.get(&Session::new("acme", 7).key()).await.expect("it may be read").is_some());
    store
}

/// Asserts that a connection is refused at once, and returns the error.
async fn is_refused(what: &str, connect: Connect) -> Error {
    let refused = in_time(what, BUSY, connect.timeout(PATIENT)).await;
    refused.err().unwrap_or_else(|| panic!("{what} is refused"))
}

/// A temporary directory of a test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("{}-{}", unique("security"), std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }

    /// Creates a file with this content and returns its path.
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
