//! Drives the service over HTTP: two processes on a server, and a browser.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use harness::{Server, wait};
use serde_json::{Value, json};
use ureq::http::{Method, Request};

const SOON: Duration = Duration::from_secs(20);

/// The server version that sessions and leases need.
const NEEDED: [u64; 3] = [2, 11, 0];

/// A process of the service.
struct Service {
    child: Child,
    url: String,
    agent: ureq::Agent,
    /// The standard error so far.
    log: Arc<Mutex<String>>,
}

impl Service {
    /// Starts a process and waits until it listens.
    fn start(name: &str, store: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvtyped-web-service"));
        command.env("KVTYPED_URL", store).env("ADDRESS", "127.0.0.1:0").env("NODE", name);
        command.env("RUST_LOG", "warn,kvtyped::operation=debug");
        command.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let log = Arc::<Mutex<String>>::default();
        let (written, stderr) = (Arc::clone(&log), child.stderr.take().expect("it is piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = written.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let first = lines.next().expect("it prints its address").expect("it is text");
        let url = first.strip_prefix("listening on ").unwrap_or_else(|| panic!("unexpected: {first}")).to_owned();
        // Reads the rest, so that the program never waits for the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        // A new connection for each request: a denied request leaves its body unread, and the server closes the connection.
        let config = ureq::Agent::config_builder().max_idle_connections(0);
        let config = config.http_status_as_error(false).timeout_global(Some(SOON));
        Self { child, url, agent: config.build().new_agent(), log }
    }

    fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Reply {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.header("content-type", "application/json");
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let mut response = self.agent.run(request.body(body).unwrap()).expect("the service answers");
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (tag, cookie, retry_after) = (header("etag"), header("set-cookie"), header("retry-after"));
        let cookie = cookie.and_then(|cookie| cookie.split(';').next().map(str::to_owned));
        let text = response.body_mut().read_to_string().expect("it is text");
        Reply { status: response.status().as_u16(), tag, cookie, retry_after, text }
    }

    fn get(&self, path: &str, cookie: &str) -> Reply {
        self.send(Method::GET, path, &[("cookie", cookie)], None)
    }

    fn post(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Reply {
        self.send(Method::POST, path, headers, Some(body))
    }

    fn state(&self, cookie: &str) -> Value {
        self.get("/api/state", cookie).json()
    }

    fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a signal to stop, and waits for the exit.
    fn terminate(mut self) -> ExitStatus {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(sent.expect("`kill` is there").success());
        self.child.wait().expect("it exits")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    tag: Option<String>,
    cookie: Option<String>,
    retry_after: Option<String>,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Registers a user and logs in. Returns the cookie of the session.
fn log_in(service: &Service, email: &str) -> String {
    let registered = service.post("/api/users", &[], json!({ "name": "Ada", "email": email }));
    assert_eq!(registered.status, 201, "{registered:?}");
    let login = service.post("/api/login", &[], json!({ "email": email }));
    assert_eq!(login.status, 204, "{login:?}");
    login.cookie.expect("a session starts")
}

/// Checks everything that one process or two processes do alike.
async fn check(a: &Service, b: &Service) {
    // Sessions and unique addresses.
    let cookie = log_in(a, "ada@acme.test");
    let again = b.post("/api/users", &[], json!({ "name": "Eve", "email": " ADA@acme.test" }));
    assert_eq!(again.status, 409, "{again:?}");
    let invalid = b.post("/api/users", &[], json!({ "name": "Eve", "email": "eve" }));
    assert_eq!(invalid.status, 422, "{invalid:?}");
    assert_eq!(b.state(&cookie)["user"], "Ada", "the session is visible at once");
    let visits = a.state(&cookie)["visits"].as_u64().unwrap();
    assert_eq!(b.state(&cookie)["visits"].as_u64().unwrap(), visits + 1);
    assert_eq!(b.state("")["user"], Value::Null);

    // Live configuration in layers, with `If-Match`.
    let put = |service: &Service, layer: Value, condition: (&str, &str)| {
        service.send(Method::PUT, "/api/config", &[condition], Some(layer))
    };
    let first = put(a, json!({ "greeting": "Welcome" }), ("if-none-match", "*"));
    assert_eq!(first.status, 204, "{first:?}");
    let tag = first.tag.expect("a tag");
    let greeting = async || (b.state(&cookie)["config"]["greeting"] == "Welcome").then_some(());
    wait::until("the configuration arrives", SOON, greeting).await;
    assert_eq!(b.state(&cookie)["config"]["max_items"], 7, "the environment wins");
    assert_eq!(put(b, json!({ "greeting": "Hi" }), ("if-match", &tag)).status, 204);
    assert_eq!(put(a, json!({ "greeting": "Lost" }), ("if-match", &tag)).status, 412);

    // One order for each key.
    let order = |service: &Service, key: &str, items: u32| {
        let headers = [("cookie", cookie.as_str()), ("idempotency-key", key)];
        service.post("/api/orders", &headers, json!({ "items": items }))
    };
    let placed = order(a, "k1", 3);
    assert_eq!(placed.status, 201, "{placed:?}");
    assert_eq!(order(b, "k1", 3).json(), placed.json());
    assert_eq!(order(b, "k1", 4).status, 422);
    assert_eq!(order(b, "k2", 8).status, 422, "more than `max_items`");
    assert_ne!(order(b, "k3", 3).json()["number"], placed.json()["number"]);

    // One limit. The burst is 10, and 5 of them are used. At 30 a minute, a slow machine may see a few more.
    let statuses: Vec<_> = (0..20).map(|n| order(if n % 2 == 0 { a } else { b }, "k1", 3)).collect();
    let accepted = statuses.iter().filter(|reply| reply.status == 201).count();
    assert!((5..15).contains(&accepted), "{statuses:?}");
    let denied = statuses.iter().find(|reply| reply.status == 429).expect("some are denied");
    assert!(denied.retry_after.as_deref().is_some_and(|seconds| ["1", "2", "3"].contains(&seconds)), "{denied:?}");

    // The log has a line for each operation, without keys and values.
    for (service, name) in [(a, "create web_users"), (b, "check web_orders_rate")] {
        let written = async || service.log().contains(&format!("otel.name={name} ")).then_some(());
        wait::until(name, SOON, written).await;
        let log = service.log().to_lowercase();
        assert!(!log.contains("acme.test") && !log.contains("welcome"), "{log}");
    }

    // Logout.
    assert_eq!(a.post("/api/logout", &[("cookie", &cookie)], json!({})).status, 204);
    assert_eq!(b.state(&cookie)["user"], Value::Null);
    assert_eq!(a.post("/api/orders", &[("cookie", &cookie)], json!({ "items": 1 })).status / 100, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_from_memory() {
    let service = Service::start("solo", "memory:", &[("WEB_MAX_ITEMS", "7")]);
    check(&service, &service).await;
    let leads = async || (service.state("")["leader"] == "solo").then_some(());
    wait::until("it leads", SOON, leads).await;
    assert_eq!(service.get("/health/ready", "").status, 200);

    // A client that reads events reads the change, and does not delay the end of the process.
    let mut events = TcpStream::connect(service.url.strip_prefix("http://").unwrap()).unwrap();
    events.write_all(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    events.set_read_timeout(Some(SOON)).unwrap();
    let mut lines = BufReader::new(events).lines().map(|line| line.expect("an event or the end"));
    assert!(lines.any(|line| line == "event: config"), "the current configuration");
    let start = Instant::now();
    assert!(service.terminate().success());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(lines.last().as_deref(), Some(""), "the response ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_serve_from_one_server() {
    if harness::binary::version() < NEEDED {
        println!("NOT DONE: sessions and leases need nats-server {NEEDED:?}");
        return;
    }
    let server = Server::start().await;
    let start = |name| Service::start(name, &server.url(), &[("WEB_MAX_ITEMS", "7")]);
    let (a, b) = (start("a"), start("b"));
    check(&a, &b).await;

    // An invalid layer keeps the last configuration.
    let mut overlay = b.get("/api/config", "").json();
    overlay["max_items"] = json!(1_000);
    let written = b.send(Method::PUT, "/api/config", &[], Some(overlay));
    assert_eq!(written.status, 204, "{written:?}");
    let state = b.state("");
    assert_eq!((&state["config"]["greeting"], &state["config"]["max_items"]), (&json!("Hi"), &json!(7)));

    // One leads. When it stops, the other leads long before the TTL of 30 s.
    let leader = wait::until("one leads", SOON, async || a.state("")["leader"].as_str().map(str::to_owned)).await;
    let (stopping, other, name) = if leader == "a" { (a, b, "b") } else { (b, a, "a") };
    let start = Instant::now();
    assert!(stopping.terminate().success());
    wait::until("the other leads", SOON, async || (other.state("")["leader"] == name).then_some(())).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());

    // An outage ends the readiness, not the life.
    assert_eq!(other.get("/health/ready", "").status, 200);
    server.kill().await;
    let start = Instant::now();
    assert_eq!(other.get("/health/ready", "").status, 503);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(other.get("/health/live", "").status, 200);
    server.restart().await;
    wait::until("it is ready", SOON, async || (other.get("/health/ready", "").status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_works_in_a_browser() {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|browser| Command::new(browser).arg("--version").output().is_ok_and(|version| version.status.success()))
    else {
        println!("NOT DONE: there is no chromium");
        return;
    };
    let service = Service::start("solo", "memory:", &[("WEB_GREETING", "Hello from <the> browser")]);
    let leads = async || (service.state("")["leader"] == "solo").then_some(());
    wait::until("it leads", SOON, leads).await;
    let options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"];
    let page =
        Command::new(browser).args(options).arg(format!("{}/?once", service.url)).output().expect("the browser runs");
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    for expected in [
        r#"<h1 id="greeting">Hello from &lt;the&gt; browser</h1>"#,
        r#"<dd id="node">solo</dd>"#,
        r#"<dd id="leader">solo</dd>"#,
        r#"<dd id="visits">1</dd>"#,
        r#"<dd id="max">10</dd>"#,
    ] {
        assert!(page.contains(expected), "{expected} is not in {page}");
    }
    assert!(service.terminate().success());
}
