use crate::{cluster, shared, wait};
use rustix::process::{Pid, test_kill_process};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// Not a test: the test below runs this function in another process and kills it.
#[tokio::test]
#[ignore = "it never ends"]
async fn victim() {
    let server = shared().await;
    let cluster = cluster::shared().await;
    cluster.node(1).freeze();
    let net = super::netns::net(1, 0);
    if let Some(net) = &net {
        println!("netns /run/netns/{}", net.namespace("hub"));
    }
    println!("root {}", crate::watchdog::root().display());
    for server in cluster.nodes().iter().chain([server]) {
        println!("pid {}", server.pid());
    }
    println!("ready");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn killed_test_process_leaves_no_server() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "selftests::watchdog::victim"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut root, mut pids, mut netns) = (None, Vec::new(), None);
    for line in BufReader::new(victim.stdout.take().unwrap()).lines() {
        match line.unwrap().split_once(' ') {
            Some(("root", path)) => root = Some(path.to_owned()),
            Some(("pid", pid)) => pids.push(Pid::from_raw(pid.parse().unwrap()).unwrap()),
            Some(("netns", path)) => netns = Some(path.to_owned()),
            None if root.is_some() => break,
            _ => {}
        }
    }
    let root = root.expect("the victim prints its folder");
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| test_kill_process(*pid).is_ok()));

    victim.kill().unwrap();
    victim.wait().unwrap();
    wait::until("the folder is gone", LIMIT, async || {
        let gone = format!("{root}.gone");
        (!Path::new(&root).exists() && !Path::new(&gone).exists()).then_some(())
    })
    .await;
    if let Some(netns) = netns {
        wait::until("the namespaces are gone", LIMIT, async || (!Path::new(&netns).exists()).then_some(())).await;
    }
    wait::until("the servers are gone", LIMIT, async || pids.iter().all(|pid| is_gone(*pid)).then_some(())).await;
}

/// Returns whether a process is gone, or dead and not yet reaped.
fn is_gone(pid: Pid) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", &pid.as_raw_nonzero().to_string()]).output();
    match state {
        Ok(output) => matches!(output.stdout.first(), None | Some(b'Z')),
        Err(_) => test_kill_process(pid).is_err(),
    }
}
