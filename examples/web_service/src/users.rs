//! Users with unique e-mail addresses.

use kvtyped::Error;
use kvtyped::prelude::*;
use kvtyped::recipes::Ids;

/// A user. At most one user has an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "web_users", key = "{id}", validate = "check")]
pub struct User {
    pub id: u64,
    pub name: String,
    #[kv(unique(with = normalized))]
    pub email: String,
}

/// Unique values are compared byte for byte.
fn normalized(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Runs before each write. A request with an invalid user fails with the status 422.
fn check(user: &User) -> Result<(), &'static str> {
    match user {
        User { name, .. } if name.trim().is_empty() => Err("the name is empty"),
        User { email, .. } if !email.contains('@') => Err("the e-mail address has no `@`"),
        _ => Ok(()),
    }
}

#[derive(Clone, Debug)]
pub struct Users {
    users: Bucket<User>,
    ids: Ids,
}

impl Users {
    pub async fn open(store: &Store) -> Result<Self, Error> {
        Ok(Self { users: store.bucket().await?, ids: store.ids("web_user_ids") })
    }

    /// Registers a user. Returns `NotUnique` if the address is taken.
    pub async fn register(&self, name: &str, email: &str) -> Result<User, Error> {
        let user = User { id: self.ids.next().await?, name: name.to_owned(), email: email.to_owned() };
        self.users.create(&user).await?;
        Ok(user)
    }

    pub async fn find(&self, email: &str) -> Result<Option<User>, Error> {
        Ok(self.users.get_by(User::by_email(email)).await?.map(Entry::into_value))
    }
}
