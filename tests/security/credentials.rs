//! Authentication methods, configured by URL and by builder.

use harness::{Server, wait};
use kvtyped::connect::NatsOptions;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind};
use nkeys::KeyPair;

use super::test_credentials::{self, Operator};
use super::{Folder, PATIENT, is_let_in, is_refused};
use crate::support::{Session, unique};

const HOUR: Duration = Duration::from_secs(3_600);

/// Asserts that the error reports missing or wrong credentials.
fn assert_unauthorized(what: &str, error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::Unauthorized), "{what}: {error:?}");
}

fn with_query(server: &Server, name: &str, value: &str) -> String {
    format!("{}?{name}={value}", server.url())
}

#[tokio::test]
async fn connect_authenticates_by_password() {
    let config = r#"authorization { users: [ { user: "a:p p", password: "p@ss/w:rd?%" } ] }"#;
    let server = Server::builder().config(config).auth().start().await;
    let url = format!("nats://a%3Ap%20p:p%40ss%2Fw%3Ard%3F%25@{}", server.addr());
    is_let_in("the URL", Store::connect(url)).await;
    let connect = || Store::connect(server.url());
    is_let_in("the builder", connect().options(NatsOptions::new().user_and_password("a:p p", "p@ss/w:rd?%"))).await;
    let options = NatsOptions::new().user_and_password("a:p p", "p@ss/w:rd?%");
    is_let_in("the options", connect().options(options)).await;

    let wrong = Store::connect(format!("nats://a%3Ap%20p:wrong@{}", server.addr()));
    assert_unauthorized("a wrong one in the URL", &is_refused("it", wrong).await);
    assert_unauthorized(
        "a wrong one",
        &is_refused("it", connect().options(NatsOptions::new().user_and_password("a:p p", "wrong"))).await,
    );
    assert_unauthorized("nobody", &is_refused("it", connect()).await);
}

#[tokio::test]
async fn connect_authenticates_by_token() {
    let server = Server::builder().config(r#"authorization { token: "t0k@n" }"#).auth().start().await;
    is_let_in("the URL", Store::connect(format!("nats://t0k%40n@{}", server.addr()))).await;
    is_let_in("the builder", Store::connect(server.url()).options(NatsOptions::new().token("t0k@n"))).await;
    let over = Store::connect(format!("nats://t0k%40n@{}", server.addr())).options(NatsOptions::new().token("another"));
    is_let_in("the URL, which takes precedence,", over).await;
    let wrong = Store::connect(format!("nats://wrong@{}", server.addr()));
    assert_unauthorized("a wrong one in the URL", &is_refused("it", wrong).await);
    assert_unauthorized(
        "a wrong one",
        &is_refused("it", Store::connect(server.url()).options(NatsOptions::new().token("wrong"))).await,
    );
}

#[tokio::test]
async fn connect_authenticates_by_nkey() {
    let folder = Folder::new();
    let [user, other] = [KeyPair::new_user(), KeyPair::new_user()];
    let config = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key());
    let server = Server::builder().config(&config).auth().start().await;
    let [seed, other] = [user, other].map(|key| key.seed().expect("it has a seed"));
    let [file, wrong] = [folder.file("a.nk", &format!("{seed}\n")), folder.file("b.nk", &other)];
    is_let_in("the URL", Store::connect(with_query(&server, "nkey", &file))).await;
    let connect = || Store::connect(server.url());
    is_let_in("the builder", connect().options(NatsOptions::new().nkey(&*seed))).await;
    is_let_in("the builder, by a file", connect().options(NatsOptions::new().nkey_file(&file))).await;
    let client = kvtyped::async_nats::ConnectOptions::new().no_echo();
    is_let_in(
        "the builder, with the client's options",
        connect().client(client).options(NatsOptions::new().nkey(&*seed)),
    )
    .await;

    let refused = is_refused("it", Store::connect(with_query(&server, "nkey", &wrong))).await;
    assert_unauthorized("another's in the URL", &refused);
    assert_unauthorized("another's", &is_refused("it", connect().options(NatsOptions::new().nkey(&*other))).await);
    assert_unauthorized("nobody", &is_refused("it", connect()).await);
}

#[tokio::test]
async fn connect_authenticates_by_credentials_file() {
    let folder = Folder::new();
    let operator = Operator::new();
    let server = Server::builder().config(&operator.config()).auth().start().await;
    let credentials = operator.credentials(HOUR);
    let file = folder.file("a.creds", &credentials);
    is_let_in("the URL", Store::connect(with_query(&server, "creds", &file))).await;
    let connect = || Store::connect(server.url());
    is_let_in("the builder", connect().options(NatsOptions::new().credentials(&*credentials))).await;
    is_let_in("the builder, by a file", connect().options(NatsOptions::new().credentials_file(&file))).await;
    let client = kvtyped::async_nats::ConnectOptions::new().no_echo();
    is_let_in(
        "the builder, with the client's options",
        connect().client(client).options(NatsOptions::new().credentials_file(&file)),
    )
    .await;

    // The account is unknown to the operator.
    let stranger = test_credentials::credentials_by(&KeyPair::new_account(), HOUR);
    let wrong = folder.file("b.creds", &stranger);
    let refused = is_refused("it", Store::connect(with_query(&server, "creds", &wrong))).await;
    assert_unauthorized("credentials of an unknown account in the URL", &refused);
    assert_unauthorized(
        "credentials of an unknown account",
        &is_refused("it", connect().options(NatsOptions::new().credentials(stranger))).await,
    );
    assert_unauthorized("nobody", &is_refused("it", connect()).await);
}

/// An error about an unusable file names the path and the cause, but does not show the content of the file.
#[tokio::test]
async fn unusable_file_is_named_in_error() {
    let folder = Folder::new();
    let user = KeyPair::new_user().seed().unwrap();
    let account = KeyPair::new_account().seed().unwrap();
    let token = format!("-----BEGIN NATS USER JWT-----\neyJsecret\n-----BEGIN USER NKEY SEED-----\n{account}\n");
    let files = [
        ("creds", "/nowhere/a.creds".to_owned()),
        ("nkey", "/nowhere/a.nk".to_owned()),
        ("creds", folder.file("only a key.creds", &user)),
        ("creds", folder.file("an account's.creds", &token)),
        ("nkey", folder.file("an account's.nk", &account)),
        ("nkey", folder.file("nonsense.nk", "secret nonsense")),
        ("creds", folder.0.to_str().unwrap().to_owned()),
    ];
    for (parameter, path) in &files {
        let url = format!("nats://127.0.0.1:1?{parameter}={}", path.replace(' ', "%20"));
        let by_url = is_refused(path, Store::connect(url)).await;
        let builder = Store::connect("nats://127.0.0.1:1");
        let builder = if *parameter == "nkey" {
            builder.options(NatsOptions::new().nkey_file(path))
        } else {
            builder.options(NatsOptions::new().credentials_file(path))
        };
        for error in [by_url, is_refused(path, builder).await] {
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error:?}");
            let reported = format!("{error} {error:?}");
            assert!(reported.contains(path.as_str()), "{reported}");
            assert!(
                !reported.contains("secret") && !reported.contains(&user) && !reported.contains(&account),
                "{reported}"
            );
        }
    }
    // A secret in place of a path.
    for url in [format!("nats://127.0.0.1:1?nkey={user}"), format!("nats://127.0.0.1:1?creds={user}")] {
        let error = is_refused("it", Store::connect(url)).await;
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error:?}");
        assert!(!format!("{error:?}").contains(&user), "{error:?}");
    }
}

/// A store whose credentials file is replaced before the credentials expire keeps access.
#[tokio::test]
async fn replaced_credentials_apply_on_reconnect() {
    let folder = Folder::new();
    let operator = Operator::new();
    let server = Server::builder().config(&operator.config()).auth().start().await;
    let short = Duration::from_secs(3);
    let [kept, replaced] = [folder.file("kept.creds", &operator.credentials(short)), folder.file("a.creds", "")];
    folder.file("a.creds", &operator.credentials(short));
    let connect = async |file: &str| is_let_in(file, Store::connect(with_query(&server, "creds", file))).await;
    let (rotating, stuck) = tokio::join!(connect(&replaced), connect(&kept));
    let name = unique("rotated");
    let open = async |store: &Store| store.bucket::<Session>().name(&name).await.expect("the bucket opens");
    let (sessions, others) = (open(&rotating).await, open(&stuck).await);

    folder.file("a.creds", &operator.credentials(HOUR));
    // The control: a store with expired credentials is disconnected, and its errors say so.
    let error = wait::until("the old tokens expire", PATIENT, async || {
        let put = others.put(&Session::new("acme", 2)).timeout(Duration::from_millis(300)).await;
        put.err().filter(|error| matches!(error.kind(), ErrorKind::Unauthorized))
    })
    .await;
    assert_eq!(error.outcome(), Outcome::NotApplied, "{error:?}");
    sessions.put(&Session::new("acme", 1)).timeout(PATIENT).await.expect("the new token lets in");
}
