//! `doctor`: problems of the server, the permissions and the buckets.

use kvtyped::connect::StoreInfo;

use crate::app::{App, View};
use crate::doctor::store::Checked;
use crate::doctor::{Finding, Level, account, bucket, permissions, recipes, store};
use crate::fail::{Code, Done, Failure, message_of};
use crate::out::Style;

/// The arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket. By default all buckets
    bucket: Option<String>,
    /// The number of records of each bucket that are checked against their model
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    sample: usize,
    /// Print also the checks that found no problem
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let mut findings = Vec::new();
    examine(app, &args, &mut findings).await?;
    let is_shown = |finding: &&Finding| args.all || app.out.is_json() || finding.level != Level::Ok;
    let mut list = app.out.list(&["LEVEL", "SUBJECT", "CHECK", "FINDING"]).wrapped();
    for finding in findings.iter().filter(is_shown) {
        list.push(finding.item())?;
    }
    list.finish()?;
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let text = format!("{} checks: {errors} errors, {warnings} warnings", findings.len());
    let style = if errors > 0 { Style::Red } else { Style::Green };
    app.out.note_lines(&app.out.style(style, &text));
    Ok(if errors > 0 { Code::No } else { Code::Success })
}

async fn examine(app: &App, args: &Args, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let target = match app.target().await {
        Ok(target) => target,
        Err(failure) if failure.code == Code::Usage => return Err(failure),
        Err(failure) => {
            findings.push(unreachable(&failure));
            return Ok(());
        }
    };
    let Checked::Usable(info) = store::check(&target.store, &target.url, findings).await? else { return Ok(()) };
    account::check(&target.store, findings).await?;
    let buckets = match &args.bucket {
        Some(bucket) => vec![bucket.clone()],
        None => match target.store.buckets().await {
            Ok(buckets) => buckets,
            Err(error) => {
                findings.push(
                    Finding::error("buckets", message_of(&error)).repair("name the bucket: `kvtyped doctor BUCKET`"),
                );
                return Ok(());
            }
        },
    };
    for name in buckets {
        let view = match app.view(&name).await {
            Ok(view) => view,
            Err(failure) if args.bucket.is_some() && failure.code == Code::NotFound => return Err(failure),
            Err(failure) => {
                findings.push(Finding::error("bucket", failure.to_string()).of_bucket(&name));
                continue;
            }
        };
        if let Err(failure) = examine_bucket(app, args, info.as_ref(), &view, findings).await {
            findings.push(Finding::error("bucket", failure.to_string()).of_bucket(&name));
        }
    }
    Ok(())
}

async fn examine_bucket(
    app: &App,
    args: &Args,
    info: Option<&StoreInfo>,
    view: &View,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let store = app.store().await?;
    // Only a server has users.
    if store.connection().borrow().server.is_some() {
        permissions::check(store, view, app.is_read_only(), findings).await?;
    }
    bucket::check(view, info, args.sample, findings).await?;
    recipes::check(store, view, findings).await
}

/// Returns the finding of a store that cannot be opened.
fn unreachable(failure: &Failure) -> Finding {
    let repair = match failure.code {
        _ if failure.is_in_use() => failure.hint_text().unwrap_or_default(),
        Code::Denied => "check the credentials with `kvtyped context show`",
        Code::NotFound => "check the path of the file",
        Code::Data => "copy the readable records with `kvtyped file salvage`",
        _ => "check that the server runs, and the URL",
    };
    Finding::error("connection", failure.message()).repair(repair)
}
