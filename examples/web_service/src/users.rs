//! Users with unique e-mail addresses: a transaction writes the user and its address, or neither.

use kvtyped::Error;
use kvtyped::prelude::*;
use kvtyped::recipes::Ids;

/// A user. Both models share a bucket, so a transaction can write them together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "web_users", key = "user.{id}", validate = "check")]
pub struct User {
    pub id: u64,
    pub name: String,
    pub email: String,
}

/// Runs before each write. A request with an invalid user fails with the status 422.
fn check(user: &User) -> Result<(), &'static str> {
    match user {
        User { name, .. } if name.trim().is_empty() => Err("the name is empty"),
        User { email, .. } if !email.contains('@') => Err("the e-mail address has no `@`"),
        _ => Ok(()),
    }
}

/// The owner of an address. The key is unique, so the address is too. Logs and errors show a hash of the key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "web_users", key = "email.{email}", sensitive_key)]
struct Email {
    email: String,
    user: u64,
}

#[derive(Clone, Debug)]
pub struct Users {
    users: Bucket<User>,
    emails: Bucket<Email>,
    ids: Ids,
}

impl Users {
    pub async fn open(store: &Store) -> Result<Self, Error> {
        Ok(Self { users: store.bucket().await?, emails: store.bucket().await?, ids: store.ids("web_user_ids") })
    }

    /// Registers a user. Returns `AlreadyExists` if the address is taken.
    pub async fn register(&self, name: &str, email: &str) -> Result<User, Error> {
        let user = User { id: self.ids.next().await?, name: name.to_owned(), email: normalized(email) };
        let address = Email { email: user.email.clone(), user: user.id };
        self.users.transaction().create(&user).create(&address).commit().await?;
        Ok(user)
    }

    pub async fn find(&self, email: &str) -> Result<Option<User>, Error> {
        let Some(address) = self.emails.get(&EmailKey::new(normalized(email))).await? else { return Ok(None) };
        let user = self.users.get(&UserKey::new(address.user)).await?;
        Ok(user.map(Entry::into_value))
    }
}

/// Keys are compared byte for byte.
fn normalized(email: &str) -> String {
    email.trim().to_lowercase()
}
