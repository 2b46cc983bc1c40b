//! Scenarios that delete the consumers of watches.

use harness::Cluster;
use serde_json::{Value, json};

use super::{Effort, SECOND, cluster};
use crate::report::Row;

/// Deletes the consumers of the streams of records, locks and elections, repeatedly.
pub(crate) async fn deleted(name: &'static str, effort: Effort) -> Row {
    let (cluster, mut run) = cluster().await;
    let mut deleted = 0;
    for _ in 0..effort.of(1, 4) {
        for stream in ["KV_records", "KV_locks", "KV_election"] {
            run.fault();
            deleted += delete_all(&cluster, stream).await;
        }
        run.work_for(4 * SECOND).await;
    }
    run.recover().await;
    run.note(format!("{deleted} consumers were deleted"));
    if deleted == 0 {
        run.violation("there was no consumer to delete".into());
    }
    run.finish(name).await
}

async fn delete_all(cluster: &Cluster, stream: &str) -> usize {
    let server = cluster.node(0);
    let names = server.api(&format!("$JS.API.CONSUMER.NAMES.{stream}"), &json!({ "offset": 0 })).await;
    let names = names.map(|mut answer| answer["consumers"].take()).unwrap_or_default();
    let mut deleted = 0;
    for name in names.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{name}");
        // A consumer that no longer exists does not count.
        let answer = server.api(&subject, &Value::Null).await;
        deleted += usize::from(answer.is_ok_and(|answer| answer["success"] == true));
    }
    deleted
}
