//! A web service with sessions, rate limits, live configuration and a leader.
//!
//! ```sh
//! cargo run -p kvtyped-web-service        # then open http://127.0.0.1:8080
//! KVTYPED_URL=nats://127.0.0.1:4222 ADDRESS=127.0.0.1:8081 cargo run -p kvtyped-web-service
//! RUST_LOG=kvtyped::operation=debug cargo run -p kvtyped-web-service   # logs each operation of kvtyped
//! ```
//!
//! Without `KVTYPED_URL` the data is in the memory of the process. Several processes with one NATS server share the
//! sessions, the limits and the configuration, and one of them leads.
//!
//! `RUST_LOG` filters the log. The spans of operations have the target `kvtyped::operation`. A span has a line when it
//! ends, with its fields and its duration. Neither values nor e-mail addresses appear.
//!
//! | file | content |
//! |---|---|
//! | `config.rs` | configuration in layers: defaults, a file, a bucket, the environment |
//! | `leader.rs` | a periodic job that one process runs |
//! | `orders.rs` | a `POST` that may be repeated |
//! | `users.rs` | users with unique e-mail addresses |
//! | `routes.rs` | the routes, with sessions and limits |
//! | `page.html` | the page |

mod config;
mod leader;
mod orders;
mod routes;
mod users;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use kvtyped::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How long open requests, and then the releases of locks, may take after the signal to stop.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let setting = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env()?)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    // In an outage, a request fails after a second instead of the timeout of 10 s.
    let connect = Store::connect(setting("KVTYPED_URL", "memory:")).fail_fast_after(Duration::from_secs(1));
    let store = connect.await?;
    let node = setting("NODE", &format!("web-{}", std::process::id()));
    let (stop, stopping) = watch::channel(false);
    let routes = routes::open(&store, &node, stopping.clone()).await?;
    let listener = TcpListener::bind(setting("ADDRESS", "127.0.0.1:8080")).await?;

    let leader = tokio::spawn(leader::run(store.clone(), node, stopping.clone()));
    println!("listening on http://{}", listener.local_addr()?);
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(leader::stopped(stopping));
    let server = tokio::spawn(server.into_future());

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Finish the open requests, and then release the leadership and all locks. Another process leads at once.
    stop.send_replace(true);
    if let Ok(served) = tokio::time::timeout(GRACE, server).await {
        served??;
    }
    leader.await??;
    store.shutdown(GRACE).await?;
    println!("stopped");
    Ok(())
}
