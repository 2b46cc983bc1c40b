//! Redis, with the client of the crate `redis`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{Client, Script, cmd, pipe};

use crate::process::{self, Process};
use crate::record::Session;
use crate::side::{LISTED, Side};

/// The program and its Debian package.
pub(crate) const PROGRAM: (&str, &str) = ("redis-server", "redis-server");

/// The channel of the events.
const EVENTS: &str = "events";
/// The name of the lock.
const LOCK: &str = "lock";

/// A server and its connections.
pub(crate) struct Redis {
    connection: MultiplexedConnection,
    /// `WATCH` concerns a whole connection.
    watching: MultiplexedConnection,
    /// The connection to the database of the listed records, so that `SCAN` sees no other records.
    listed: MultiplexedConnection,
    events: PubSubStream,
    /// Sets a key if it has the expected value.
    replace: Script,
    /// Deletes a key if it has the expected value.
    release: Script,
    values: HashMap<String, Vec<u8>>,
    locked: u64,
    _process: Process,
}

impl Redis {
    /// Starts a server. It syncs its append-only file after each write if `synced` is set, and only has memory otherwise.
    pub(crate) async fn start(synced: bool) -> Self {
        let [port] = process::ports();
        let process = Process::start(PROGRAM.0, |dir| {
            let mut words = vec!["--bind", "127.0.0.1", "--save", ""];
            words.extend(if synced {
                ["--appendonly", "yes", "--appendfsync", "always"].as_slice()
            } else {
                &["--appendonly", "no"]
            });
            let mut words: Vec<_> = words.into_iter().map(str::to_owned).collect();
            words.extend(["--port".to_owned(), port.to_string(), "--dir".to_owned(), dir.display().to_string()]);
            words
        });
        let open = |database: u8| Client::open(format!("redis://127.0.0.1:{port}/{database}")).expect("a valid URL");
        let client = open(0);
        process::listens("Redis", port).await;
        let connection = client.get_multiplexed_async_connection().await.expect("it connects");
        let watching = client.get_multiplexed_async_connection().await.expect("it connects");
        let listed = open(1).get_multiplexed_async_connection().await.expect("it connects");
        let mut events = client.get_async_pubsub().await.expect("it connects");
        events.subscribe(EVENTS).await.expect("it subscribes");
        let replace = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('SET', KEYS[1], ARGV[2]) end";
        let release = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end";
        Self {
            connection,
            watching,
            listed,
            events: events.into_on_message(),
            replace: Script::new(replace),
            release: Script::new(release),
            values: HashMap::new(),
            locked: 0,
            _process: process,
        }
    }

    /// Returns the connection to the database of a record.
    fn connection(&mut self, record: &Session) -> &mut MultiplexedConnection {
        if record.tenant == LISTED { &mut self.listed } else { &mut self.connection }
    }
}

impl Side for Redis {
    async fn put(&mut self, record: &Session) {
        let set = cmd("SET").arg(record.by_hand()).arg(record.encode()).to_owned();
        set.exec_async(self.connection(record)).await.expect("it is set");
    }

    async fn get(&mut self, record: &Session) -> Session {
        let get = cmd("GET").arg(record.by_hand()).to_owned();
        let bytes: Vec<u8> = get.query_async(self.connection(record)).await.expect("it is there");
        Session::decode(&bytes)
    }

    async fn modify(&mut self, record: &Session) {
        let key = record.by_hand();
        let mut read = pipe();
        read.cmd("WATCH").arg(&key).ignore().cmd("GET").arg(&key);
        let (bytes,): (Vec<u8>,) = read.query_async(&mut self.watching).await.expect("it is there");
        let mut session = Session::decode(&bytes);
        session.visits += 1;
        let mut write = pipe();
        write.atomic().cmd("SET").arg(&key).arg(session.encode());
        let written: Option<(String,)> = write.query_async(&mut self.watching).await.expect("it is executed");
        assert!(written.is_some(), "no other client changed the record");
    }

    async fn update(&mut self, record: &Session) {
        let (key, bytes) = (record.by_hand(), record.encode());
        if let Some(old) = self.values.get(&key) {
            let mut replace = self.replace.key(&key);
            replace.arg(old).arg(&bytes);
            let done: Option<String> = replace.invoke_async(&mut self.connection).await.expect("it is executed");
            assert!(done.is_some(), "no other client changed the record");
        } else {
            self.put(record).await;
        }
        self.values.insert(key, bytes);
    }

    async fn lock(&mut self) {
        self.locked += 1;
        let token = self.locked;
        let mut set = cmd("SET");
        set.arg(LOCK).arg(token).arg("NX").arg("PX").arg(30_000);
        let locked: Option<String> = set.query_async(&mut self.connection).await.expect("it is executed");
        assert!(locked.is_some(), "it is free");
        let mut release = self.release.key(LOCK);
        let released: Option<u64> =
            release.arg(token).invoke_async(&mut self.connection).await.expect("it is executed");
        assert!(released.is_some(), "it is held");
    }

    async fn put_until_event(&mut self, record: &Session) -> Duration {
        let begun = Instant::now();
        let bytes = record.encode();
        let mut write = pipe();
        write.atomic().cmd("SET").arg(record.by_hand()).arg(&bytes).ignore();
        write.cmd("PUBLISH").arg(EVENTS).arg(&bytes).ignore();
        let put = async { write.exec_async(&mut self.connection).await.expect("it is executed") };
        let event = async {
            let message = self.events.next().await.expect("it continues");
            assert_eq!(Session::decode(message.get_payload_bytes()).id, record.id);
            begun.elapsed()
        };
        tokio::join!(put, event).1
    }

    async fn list(&mut self) -> usize {
        let (mut cursor, mut listed) = (0_u64, HashMap::new());
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("COUNT").arg(1_000);
            let (next, keys): (u64, Vec<String>) = scan.query_async(&mut self.listed).await.expect("it scans");
            if !keys.is_empty() {
                let mut get = cmd("MGET");
                let values: Vec<Option<Vec<u8>>> =
                    get.arg(&keys).query_async(&mut self.listed).await.expect("they are read");
                let found = keys.into_iter().zip(values).filter_map(|(key, value)| Some((key, value?)));
                listed.extend(found.map(|(key, value)| (key, Session::decode(&value))));
            }
            if next == 0 {
                return listed.len();
            }
            cursor = next;
        }
    }

    async fn transaction(&mut self, records: &[Session; 2]) {
        let mut write = pipe();
        write.atomic();
        for record in records {
            write.cmd("SET").arg(record.by_hand()).arg(record.encode()).ignore();
        }
        write.exec_async(&mut self.connection).await.expect("it is executed");
    }

    async fn put_many(&mut self, records: &[Session]) {
        let mut write = pipe();
        for record in records {
            write.cmd("SET").arg(record.by_hand()).arg(record.encode()).ignore();
        }
        let connection = self.connection(&records[0]);
        write.exec_async(connection).await.expect("they are set");
    }
}
