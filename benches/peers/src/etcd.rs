//! etcd over gRPC. The client is as small as the comparison allows, and adds nothing to a call.

mod messages;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt, stream};
use http::uri::PathAndQuery;
use messages::{
    Compare, KeyValue, LeaseGrantRequest, LeaseGrantResponse, LockRequest, LockResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, UnlockRequest, UnlockResponse, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::process::{self, Process};
use crate::record::Session;
use crate::side::{LISTED, Side};

/// The program and its Debian package.
pub(crate) const PROGRAM: (&str, &str) = ("etcd", "etcd-server");

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const LOCK: &str = "/v3lockpb.Lock/Lock";
const UNLOCK: &str = "/v3lockpb.Lock/Unlock";

/// A server, and a connection to it.
pub(crate) struct Etcd {
    grpc: Grpc<Channel>,
    events: Streaming<WatchResponse>,
    /// The lease of all locks, as a session of etcd's own client has one.
    lease: i64,
    /// The revision of each record that this client updated.
    revisions: HashMap<String, i64>,
    _process: Process,
}

impl Etcd {
    /// Starts a server, and watches the record `watched`.
    pub(crate) async fn start(watched: &Session) -> Self {
        let [port, peer_port] = process::ports();
        let [url, peer_url] = [port, peer_port].map(|port| format!("http://127.0.0.1:{port}"));
        let process = Process::start(PROGRAM.0, |dir| {
            let dir = dir.join("data").display().to_string();
            let cluster = format!("default={peer_url}");
            let options = [
                ("data-dir", &dir),
                ("listen-client-urls", &url),
                ("advertise-client-urls", &url),
                ("listen-peer-urls", &peer_url),
                ("initial-advertise-peer-urls", &peer_url),
                ("initial-cluster", &cluster),
            ];
            options.map(|(name, value)| format!("--{name}={value}")).to_vec()
        });
        let endpoint = Endpoint::from_shared(url).expect("a valid URL");
        process::listens("etcd", port).await;
        let grpc = Grpc::new(endpoint.connect().await.expect("it listens"));
        // The first write waits until the server has elected itself.
        let grant = LeaseGrantRequest { ttl: 3_600, id: 0 };
        let lease = call::<_, LeaseGrantResponse>(&grpc, GRANT, grant).await.expect("a lease is granted").id;

        let create = WatchCreateRequest { key: watched.by_hand().into_bytes() };
        let create = stream::iter([WatchRequest { create_request: Some(create) }]).chain(stream::pending());
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let mut watch = grpc.clone();
        watch.ready().await.expect("it is connected");
        let events = watch.streaming(Request::new(create), PathAndQuery::from_static(WATCH), codec).await;
        let mut events = events.expect("it watches").into_inner();
        assert!(events.message().await.expect("no error").is_some_and(|created| created.created));
        Self { grpc, events, lease, revisions: HashMap::new(), _process: process }
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> A
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        call(&self.grpc, path, request).await.expect("etcd answers")
    }

    async fn read(&self, key: &str) -> KeyValue {
        let request = RangeRequest { key: key.as_bytes().to_vec(), range_end: Vec::new() };
        let response: RangeResponse = self.call(RANGE, request).await;
        response.kvs.into_iter().next().expect("it is there")
    }

    /// Writes a record if it has this revision. Returns the new revision.
    async fn replace(&self, record: &Session, revision: i64) -> i64 {
        let compare = Compare::revision(record.by_hand().into_bytes(), revision);
        let request = TxnRequest { compare: vec![compare], success: vec![RequestOp::put(put_request(record))] };
        let response: TxnResponse = self.call(TXN, request).await;
        assert!(response.succeeded, "no other client changed the record");
        response.header.expect("it has a header").revision
    }
}

async fn call<Q, A>(grpc: &Grpc<Channel>, path: &'static str, request: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = grpc.clone();
    grpc.ready().await.map_err(|why| Status::unavailable(why.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    Ok(grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
}

fn put_request(record: &Session) -> PutRequest {
    PutRequest { key: record.by_hand().into_bytes(), value: record.encode() }
}

impl Side for Etcd {
    async fn put(&mut self, record: &Session) {
        let _: PutResponse = self.call(PUT, put_request(record)).await;
    }

    async fn get(&mut self, record: &Session) -> Session {
        Session::decode(&self.read(&record.by_hand()).await.value)
    }

    async fn modify(&mut self, record: &Session) {
        let read = self.read(&record.by_hand()).await;
        let mut session = Session::decode(&read.value);
        session.visits += 1;
        self.replace(&session, read.mod_revision).await;
    }

    async fn update(&mut self, record: &Session) {
        let key = record.by_hand();
        let revision = match self.revisions.get(&key) {
            Some(revision) => self.replace(record, *revision).await,
            None => {
                let response: PutResponse = self.call(PUT, put_request(record)).await;
                response.header.expect("it has a header").revision
            }
        };
        self.revisions.insert(key, revision);
    }

    async fn lock(&mut self) {
        let lock = LockRequest { name: b"job".to_vec(), lease: self.lease };
        let locked: LockResponse = self.call(LOCK, lock).await;
        let _: UnlockResponse = self.call(UNLOCK, UnlockRequest { key: locked.key }).await;
    }

    async fn put_until_event(&mut self, record: &Session) -> Duration {
        let begun = Instant::now();
        let grpc = self.grpc.clone();
        let put = async { call::<_, PutResponse>(&grpc, PUT, put_request(record)).await.expect("it is put") };
        let event = async {
            let response = self.events.message().await.expect("no error").expect("it continues");
            let [event] = response.events.as_slice() else { panic!("one put is one event") };
            assert_eq!(Session::decode(&event.kv.as_ref().expect("it has a record").value).id, record.id);
            begun.elapsed()
        };
        tokio::join!(put, event).1
    }

    async fn list(&mut self) -> usize {
        let [key, range_end] = [format!("{LISTED}."), format!("{LISTED}/")].map(String::into_bytes);
        let response: RangeResponse = self.call(RANGE, RangeRequest { key, range_end }).await;
        let records = response.kvs.into_iter().map(|read| (read.key, Session::decode(&read.value)));
        records.collect::<HashMap<_, _>>().len()
    }

    async fn transaction(&mut self, records: &[Session; 2]) {
        let success = records.iter().map(|record| RequestOp::put(put_request(record))).collect();
        let response: TxnResponse = self.call(TXN, TxnRequest { compare: Vec::new(), success }).await;
        assert!(response.succeeded);
    }

    async fn put_many(&mut self, records: &[Session]) {
        let puts = records.iter().map(|record| self.call::<_, PutResponse>(PUT, put_request(record)));
        let puts: Vec<_> = puts.collect();
        join_all(puts).await;
    }
}
