//! The picture of the tool in the README, drawn from the output of the tool.
//!
//! `KVTYPED_GOLDEN=overwrite cargo test -p kvtyped-cli --test cli picture` draws it again.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::terminal::Terminal;
use crate::world::{run, tool};

/// The size of a character, and the place of the first one.
const CELL: (f32, f32) = (8.4, 19.0);
const MARGIN: (f32, f32) = (20.0, 58.0);
const COLUMNS: u16 = 96;

/// Returns the color of a style of the terminal.
fn color(code: &str) -> &'static str {
    match code {
        "1" => "font-weight=\"bold\" fill=\"#f0f6fc\"",
        "2" => "fill=\"#8b949e\"",
        "31" => "fill=\"#ff7b72\"",
        "32" => "fill=\"#7ee787\"",
        "36" => "fill=\"#79c0ff\"",
        _ => "fill=\"#c9d1d9\"",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Draws lines with the styles of a terminal.
fn draw(lines: &[String]) -> String {
    let width = MARGIN.0 * 2.0 + f32::from(COLUMNS) * CELL.0;
    let height = MARGIN.1 + CELL.1 * lines.len() as f32;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" \
         aria-label=\"The commands ls, watch and lock ls of kvtyped\" \
         font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n"
    );
    for (number, fill) in ["#ff5f56", "#ffbd2e", "#27c93f"].iter().enumerate() {
        _ = writeln!(out, "<circle cx=\"{}\" cy=\"20\" r=\"6\" fill=\"{fill}\"/>", 22 + 20 * number);
    }
    for (number, line) in lines.iter().enumerate() {
        let y = MARGIN.1 + CELL.1 * number as f32;
        _ = write!(out, "<text x=\"{}\" y=\"{y}\" xml:space=\"preserve\">", MARGIN.0);
        let (mut style, mut rest) = ("0", line.as_str());
        while !rest.is_empty() {
            let (text, after) = rest.split_once("\u{1b}[").unwrap_or((rest, ""));
            if !text.is_empty() {
                _ = write!(out, "<tspan {}>{}</tspan>", color(style), escape(text));
            }
            (style, rest) = after.split_once('m').unwrap_or(("0", ""));
        }
        out.push_str("</text>\n");
    }
    out + "</svg>\n"
}

/// Returns the texts of a picture, without numbers and spaces, which differ from run to run.
fn texts(picture: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for line in picture.lines().filter(|line| line.starts_with("<text")) {
        let mut text = String::new();
        for part in line.split('>').skip(1) {
            text.push_str(part.split('<').next().unwrap_or_default());
        }
        text.retain(|character| !character.is_ascii_digit() && !character.is_whitespace());
        // The unit of an age depends on the speed of the machine.
        texts.push(text.replace("ms", "").replace(['s', 'm', '.'], ""));
    }
    texts
}

#[test]
fn picture_shows_the_output_of_the_tool() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(harness::Server::start());
    let folder = tempfile::tempdir().unwrap();
    let command = |arguments: &[&str]| -> Command {
        let mut command = tool(folder.path());
        command.env("KVTYPED_URL", server.url()).args(arguments);
        command
    };
    let ok = |arguments: &[&str]| assert_eq!(run(command(arguments), b"").code, 0, "{arguments:?}");
    let card = r#"{\"key\":\"{tenant}.{id}\",\"codec\":\"json\",\"version\":1,\"writes\":1,\"oldest\":1}"#;
    let header = format!(
        r#"{{"v":1,"type":"bucket","bucket":"sessions","history":1,"limit_markers_ms":300000,"metadata":{{"kvtyped.model.session":"{card}"}}}}"#
    );
    let empty = format!("{header}\n{{\"v\":1,\"type\":\"end\",\"records\":0}}\n");
    let created = run(command(&["import", "sessions"]), empty.as_bytes());
    assert_eq!(created.code, 0, "{created:?}");
    for (key, value) in [
        ("acme.7", r#"{"user":"ada","visits":1}"#),
        ("acme.8", r#"{"user":"bob","visits":4}"#),
        ("beta.1", r#"{"user":"eve","visits":2}"#),
    ] {
        ok(&["put", "sessions", key, value, "--ttl", "30m"]);
    }
    let hold = |name: &str, owner: &str, note: &str| {
        let mut holder = command(&[
            "lock",
            "run",
            "jobs",
            name,
            "--owner",
            owner,
            "--note",
            note,
            "--",
            "sh",
            "-c",
            "echo up; exec sleep 600",
        ]);
        let mut child = holder.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        child
    };
    let holders = [hold("invoice-42", "billing@web-7", "monthly run"), hold("reindex", "search@web-2", "after 2.4")];

    let mut lines = Vec::new();
    let mut add = |arguments: &str, shown: &str| {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(format!("\u{1b}[32m$\u{1b}[0m \u{1b}[1mkvtyped {arguments}\u{1b}[0m"));
        lines.extend(shown.lines().map(|line| line.trim_end().to_owned()));
    };
    let arguments = ["ls", "sessions", "-l"];
    add("ls sessions -l", &Terminal::spawn(command(&arguments), COLUMNS).end().1);
    let mut watch = Terminal::spawn(command(&["watch", "sessions", "acme.*", "--until", "5"]), COLUMNS);
    watch.expect("changes follow");
    ok(&["patch", "sessions", "acme.7", r#"{"visits":2}"#]);
    watch.expect("\"visits\":2");
    ok(&["rm", "sessions", "acme.8"]);
    watch.expect("delete");
    ok(&["put", "sessions", "acme.9", r#"{"user":"kim","visits":1}"#, "--ttl", "30m"]);
    add("watch sessions 'acme.*'", &watch.end().1);
    add("lock ls", &Terminal::spawn(command(&["lock", "ls"]), COLUMNS).end().1);
    for mut holder in holders {
        rustix::process::kill_process(rustix::process::Pid::from_child(&holder), rustix::process::Signal::TERM)
            .unwrap();
        holder.wait().unwrap();
    }
    runtime.block_on(server.terminate());

    let picture = draw(&lines);
    assert!(picture.len() < 100_000);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tool.svg");
    if std::env::var_os("KVTYPED_GOLDEN").is_some_and(|value| value == "overwrite") {
        fs::write(&file, &picture).unwrap();
    }
    let stored = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(texts(&stored), texts(&picture), "draw `docs/tool.svg` again with KVTYPED_GOLDEN=overwrite");
}
