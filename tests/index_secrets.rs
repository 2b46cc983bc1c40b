//! The keys of index entries contain values. No error, event, span or `Debug` output shows them.

use harness::Server;
use kvtyped::ErrorKind;
use kvtyped::backend::{Deadline, Write};
use kvtyped::model::index::claim_key;
use kvtyped::prelude::*;
use kvtyped::txn::TransactError;

use crate::support::sentinels::Everything;
use crate::support::{on_both_backends, unique};

const SECRET: &str = "s3cret-value-sentinel";
const SECRET_KEY: &str = "s3cret-key-sentinel";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "patients", key = "{id}", sensitive_key, index(by_ward = "{ward}.{diagnosis}"))]
struct Patient {
    id: String,
    #[kv(unique)]
    insurance: String,
    #[kv(index)]
    diagnosis: String,
    ward: String,
}

fn patient(id: &str, insurance: &str) -> Patient {
    Patient { id: id.into(), insurance: insurance.into(), diagnosis: SECRET.into(), ward: SECRET.into() }
}

/// Checks that the lines of this crate and all shown values are there, and contain no secret.
fn check(everything: &Everything, at_least: usize) {
    let lines = everything.lines();
    let ours = lines.iter().filter(|line| line.starts_with("kvtyped") || line.starts_with("shown"));
    assert!(ours.clone().count() >= at_least, "{}", ours.count());
    for line in ours {
        for secret in [SECRET, SECRET_KEY, "s3cret=2D"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

on_both_backends! {
    needs Transactions;

    async fn errors_and_traces_hide_index_values(world: World) {
        let everything = Everything::default();
        let store = world.store.clone().with_traced_keys(true);
        let subscriber = tracing::subscriber::set_default(everything.clone());
        let patients: Bucket<Patient> = store.bucket().name(unique("patients")).await.unwrap();
        let first = patients.create(&patient(SECRET_KEY, SECRET)).await.unwrap();
        let mut errors = vec![
            patients.create(&patient("2", SECRET)).await.unwrap_err(),
            patients.put(&patient("2", SECRET)).await.unwrap_err(),
            patients.transaction().put(&patient("2", SECRET)).commit().await.unwrap_err(),
            patients.put_many([patient("2", SECRET)]).await.unwrap_err(),
        ];
        for error in &errors {
            assert!(matches!(error.kind(), ErrorKind::NotUnique { index: "insurance", .. }), "{error:?}");
        }
        let twice = [patient("2", "same"), patient("3", "same")];
        errors.push(patients.transaction().put(&twice[0]).put(&twice[1]).commit().await.unwrap_err());
        errors.push(patients.update(&patient(SECRET_KEY, &SECRET.repeat(99)), first).await.unwrap_err());
        errors.push(patients.get_by(Patient::by_insurance(SECRET.repeat(99))).await.unwrap_err());

        // Another client takes the value while a transaction runs, or damages its claim.
        let raw = world.backend().await.open(patients.name(), Deadline::after(Duration::from_secs(10))).await;
        let raw = raw.unwrap().unwrap();
        let info = &Patient::__INDEXES[0];
        let claim = claim_key("patient", info, SECRET).unwrap();
        let overwrite = async |body: String| {
            let write = Write::index_entry(claim.clone(), body.into());
            raw.write(write, Deadline::after(Duration::from_secs(10))).await.unwrap();
        };
        let stale = patients.transact(|tx| {
            let overwrite = &overwrite;
            async move {
                let found = tx.get_by(Patient::by_insurance(SECRET)).await?;
                overwrite(format!(r#"{{"v":1,"owner":"{SECRET_KEY}","expects":0}}"#)).await;
                tx.put(&Patient { ward: "new".into(), ..found.expect("there") })?;
                Ok(())
            }
        });
        match stale.max_attempts(2).await.unwrap_err() {
            TransactError::Kv(error) => errors.push(error),
            TransactError::Closure(error) => panic!("{error}"),
        }
        overwrite(SECRET.to_owned()).await;
        errors.push(patients.get_by(Patient::by_insurance(SECRET)).await.unwrap_err());
        errors.push(patients.create(&patient("4", SECRET)).await.unwrap_err());
        everything.shown(&patients.verify_indexes().await);

        let by_diagnosis = Patient::by_diagnosis(SECRET);
        let mut list = patients.list_by(by_diagnosis.clone()).await.unwrap();
        list.next().await.unwrap().unwrap();
        everything.shown(&by_diagnosis);
        everything.shown(&Patient::by_ward(SECRET).diagnosis(SECRET));
        everything.shown(&list);
        everything.shown(&list.cursor());
        everything.shown(&patients.get_by(Patient::by_insurance(SECRET)));
        everything.shown(&patients.list_by(by_diagnosis.clone()).after(list.cursor().unwrap()));
        everything.shown(&patients.count_by(by_diagnosis));
        let cursor = list.cursor().unwrap();
        errors.push(patients.list_by(Patient::by_ward(SECRET)).after(cursor).await.unwrap_err());
        drop(subscriber);
        errors.iter().for_each(|error| everything.error(error));
        assert!(errors.len() >= 11);
        check(&everything, errors.len());
    }
}

#[tokio::test]
async fn denied_subjects_hide_index_values() {
    let config = r#"
        authorization { users: [
            { user: admin, password: admin }
            { user: writer, password: writer, permissions: { publish: { deny: ["$KV.=i.patients.>"] } } }
            { user: reader, password: reader, permissions: { publish: {
                deny: ["$JS.API.DIRECT.GET.KV_patients.$KV.=i.patients.>", "$JS.API.STREAM.MSG.GET.KV_patients"]
            } } }
        ] }
    "#;
    let server = Server::builder().config(config).auth().start().await;
    let connect = async |user: &str| {
        let url = format!("nats://{user}:{user}@{}", server.addr());
        Store::connect(&url).timeout(Duration::from_secs(20)).await.unwrap()
    };
    let admin: Bucket<Patient> = connect("admin").await.bucket().await.unwrap();
    admin.create(&patient("1", SECRET)).await.unwrap();
    let everything = Everything::default();
    let subscriber = tracing::subscriber::set_default(everything.clone());
    let writer: Bucket<Patient> = connect("writer").await.bucket().must_exist().await.unwrap();
    let reader: Bucket<Patient> = connect("reader").await.bucket().must_exist().await.unwrap();
    let timeout = Duration::from_secs(3);
    let errors = [
        writer.create(&patient("2", "other")).timeout(timeout).await.unwrap_err(),
        writer.put(&patient("1", "other")).timeout(timeout).await.unwrap_err(),
        reader.get_by(Patient::by_insurance(SECRET)).timeout(timeout).await.unwrap_err(),
    ];
    drop(subscriber);
    for error in &errors {
        assert!(matches!(error.kind(), ErrorKind::PermissionDenied { .. }), "{error:?}");
        everything.error(error);
    }
    check(&everything, errors.len());
}
