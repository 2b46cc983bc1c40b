//! `wait`: waits until a record has a value.

use kvtyped::ErrorKind;

use crate::app::App;
use crate::commands::{get, key};
use crate::entry::Shown;
use crate::fail::{Code, Done, Failure};
use crate::path::Condition;

/// The arguments of `wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// The path of a field and its value, such as `status.phase=done` or `items[0].id=7`. Without a value, the field
    /// must exist. Without the argument, the record must exist. `--timeout` bounds the wait
    #[arg(value_name = "PATH=VALUE")]
    condition: Option<String>,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let condition = args.condition.as_deref().map(Condition::parse).transpose()?;
    let key = key(&args.key)?;
    let view = app.view(&args.bucket).await?;
    let predicate = |entry: &kvtyped::Entry<kvtyped::RawRecord>| {
        let decoded = view.models.decode(entry.key(), entry.headers(), &entry.bytes);
        match (&condition, decoded.value) {
            (None, _) => true,
            (Some(condition), Ok(value)) => condition.holds(&value),
            (Some(_), Err(_)) => false,
        }
    };
    let waited = view.bucket.wait_for(&key, predicate).timeout(app.options.timeout).await;
    let entry = waited.map_err(|error| match error.kind() {
        ErrorKind::Timeout { .. } => {
            let what = args.condition.as_deref().unwrap_or("it to exist");
            let failure =
                Failure::late(format!("record `{key}` of bucket `{}`: timed out waiting for {what}", args.bucket));
            failure.hint("raise `--timeout`")
        }
        _ => Failure::from(error),
    })?;
    let shown = Shown::of_entry(view.name(), &view.models, &entry);
    app.out.one(&["KEY", "REVISION", "AGE", "LEFT", "CODEC"], &get::item(app, &shown))?;
    Ok(Code::Success)
}
