//! Users with a unique e-mail address: sign-up, change of the address, listing by team, and references to teams.
//!
//! `cargo run --example users` needs no server. With `KVTYPED_URL=nats://127.0.0.1:4222`, the same program runs on a
//! real server.

use kvtyped::model::Ref;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind};

/// A team. Teams and users share a bucket, so that a transaction can check a reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "example_users", key = "team.{name}")]
struct Team {
    name: String,
    room: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KeySegment)]
enum Role {
    Admin,
    Member,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "example_users", key = "user.{id}", index(by_role = "{team}.{role}"))]
struct User {
    id: u64,
    name: String,
    /// No two users have the same address, whatever its case.
    #[kv(unique(with = lower_case))]
    email: String,
    team: Option<Ref<Team>>,
    role: Role,
}

fn lower_case(email: &str) -> String {
    email.to_lowercase()
}

fn user(id: u64, name: &str, team: &Team, role: Role) -> User {
    let email = format!("{name}@example.com");
    User { id, name: name.into(), email, team: Some(Ref::to(team)), role }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    store.delete_bucket("example_users").await?; // left from before
    let users: Bucket<User> = store.bucket().await?;
    let teams: Bucket<Team> = store.bucket().await?;
    let [core, docs] = ["core", "docs"].map(|name| Team { name: name.into(), room: 12 });
    teams.put_many([&core, &docs]).await?;

    println!("Sign up");
    for new in [
        user(1, "ada", &core, Role::Admin),
        user(2, "grace", &core, Role::Member),
        user(3, "alan", &docs, Role::Member),
    ] {
        users.create(&new).await?;
        println!("  {} has the address {}", new.name, new.email);
    }
    let taken = User { email: "ADA@example.com".into(), ..user(4, "eve", &core, Role::Member) };
    match users.create(&taken).await {
        Err(error) if matches!(error.kind(), ErrorKind::NotUnique { .. }) => println!("  refused: {error}"),
        other => println!("  the address is not unique: {other:?}"),
    }

    println!("Sign in by the address");
    let found = users.get_by(User::by_email("Grace@Example.com")).await?;
    println!("  {:?}", found.map(|user| user.name.clone()));

    println!("Change an address");
    let key = UserKey::new(2);
    users.modify(&key, |user| user.email = "hopper@example.com".into()).await?;
    let old = users.get_by(User::by_email("grace@example.com")).await?;
    let new = users.get_by(User::by_email("hopper@example.com")).await?;
    println!("  the old address is free: {}, the new one is of user {:?}", old.is_none(), new.map(|user| user.id));

    println!("List a team");
    let mut members = users.list_by(User::by_role(core.key())).await?;
    while let Some(user) = members.try_next().await? {
        println!("  {} ({:?})", user.name, user.role);
    }
    let admins = users.count_by(User::by_role(core.key()).role(Role::Admin)).await?;
    println!("  admins: {admins}");

    println!("Follow references");
    let all: Vec<Entry<User>> = users.list(UserKey::filter()).await?.try_collect().await?;
    let found = teams.resolve(all.iter().flat_map(|user| &user.team)).await?;
    for user in &all {
        let room = user.team.as_ref().and_then(|team| found.get(team)).map(|team| team.room);
        println!("  {} works in room {room:?}", user.name);
    }
    let lost = user(5, "linus", &Team { name: "kernel".into(), room: 1 }, Role::Member);
    match users.transaction().create(&lost).exists(&lost.team).commit().await {
        Err(error) if error.is_not_found() => println!("  refused: {error}"),
        other => println!("  the reference dangles: {other:?}"),
    }

    users.destroy().await?;
    store.close().await
}
