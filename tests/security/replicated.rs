//! The documented permissions on a cluster, with stale replicas and with leaders on other servers.

use kvtyped::prelude::*;

use super::roles::{Denied, TestAccounts, block, cannot_write};
use super::work::{self, RECORDS, Session, SessionKey};
use crate::needs::{Feature, needs};

const NODES: usize = 3;

/// P38, P39.
#[tokio::test]
async fn roles_work_via_any_cluster_server() {
    needs!(Locks);
    let roles = [("reader", "Reader"), ("writer", "Writer"), ("locker", "Locker"), ("acme", "Tenant")];
    let users = roles.map(|(user, role)| (user.to_owned(), block(role)));
    let transacts = !Feature::Transactions.is_missing_and_reported().await;
    let site = TestAccounts::replicated(&users).await;
    for node in 0..NODES {
        let first = 1_000 + 100 * node as u64;
        let connect = async |user: &str| site.connect_to(node, user, &format!("_INBOX_{user}")).await;
        let (reader, writer, locker) = tokio::join!(connect("reader"), connect("writer"), connect("locker"));
        let acme = site.connect_to(node, "acme", "_INBOX_acme&restricted=true").await;

        let read: Bucket<Session> = reader.bucket().must_exist().await.expect("a reader may open it");
        caught_up(&read).await;
        work::reading(&read, "acme").await.expect("a reader may read");
        work::reading_all(&read).await.expect("a reader may read all");

        let written: Bucket<Session> = writer.bucket().must_exist().await.expect("a writer may open it");
        work::writing(&written, "beta", first).await.expect("a writer may write");
        if transacts {
            work::transacting(&written).await.expect("a writer may transact");
        }

        work::locking(&locker, &format!("job-{node}")).await.expect("a locker may lock");

        let own: Bucket<Session> = acme.bucket().must_exist().await.expect("a tenant may open it");
        work::reading(&own, "acme").await.expect("a tenant may read");
        work::writing(&own, "acme", first).await.expect("a tenant may write");
        work::contending(&[&own, &written], "acme", 5_000).await.expect("both may change it");

        for (user, _) in &users {
            assert_eq!(site.violations(user), [""; 0], "by server {node}");
        }
        site.watch_goes_on(&read, "acme").await;
        site.watch_goes_on(&own, "acme").await;
    }
    for (user, _) in &users {
        assert_eq!(site.violations(user), [""; 0], "after the watches were restarted");
    }
    for node in 0..NODES {
        let denied = Denied::default();
        let reader = site.connect_to(node, "reader", "_INBOX_reader").await;
        cannot_write(&denied, &reader.bucket().must_exist().await.expect("it may be opened"), "acme").await;
        let acme = site.connect_to(node, "acme", "_INBOX_acme&restricted=true").await;
        let sessions: Bucket<Session> = acme.bucket().must_exist().await.expect("it may be opened");
        cannot_write(&denied, &sessions, "beta").await;
        denied.is("get", sessions.get(&SessionKey::new("beta", 1))).await;
        denied.tell("by a server of a cluster");
    }
}

/// Waits until the nearest server has all initial records.
async fn caught_up(sessions: &Bucket<Session>) {
    for tenant in ["acme", "beta"] {
        let last = SessionKey::new(tenant, RECORDS);
        sessions.wait_for(&last, |_| true).await.expect("it is there");
    }
}
