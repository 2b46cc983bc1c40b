//! `edit`: changes a record in an editor.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use kvtyped::{Entry, Key, RawRecord, Read, Revision};
use tempfile::NamedTempFile;

use crate::app::{App, Target, WriteView};
use crate::codec::Codec;
use crate::commands::{key, no_record};
use crate::diffs;
use crate::escape::escape_lines;
use crate::fail::{Code, Done, Failure};
use crate::interrupt::Foreground;
use crate::json::Json;
use crate::merge::merge;
use crate::time;
use crate::writing::{self, WriteOptions};

/// The arguments of `edit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// Edit the stored text instead of JSON
    #[arg(long)]
    raw: bool,
    /// Write the record with its remaining time, instead of its whole TTL again
    #[arg(long, conflicts_with = "no_ttl")]
    keep_deadline: bool,
    /// Write the record without its TTL
    #[arg(long)]
    no_ttl: bool,
    /// Edit only if the record has this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    #[command(flatten)]
    options: WriteOptions,
}

/// The text of a record in the editor.
#[derive(Debug, Clone)]
enum Form {
    Json(Codec, Json),
    Text(String),
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let key = key(&args.key)?;
    let mut view = writing::open(app, &args.bucket, args.options).await?;
    let mut target = app.target().await?.clone();
    let mut stored = read(&view, &key).await?.ok_or_else(|| no_record(view.name(), &key))?;
    // Before the user types, not after.
    writing::check_revision(Some(&stored), args.if_revision)?;
    writing::kept_headers(&stored, args.raw)?;
    let ttl = |view: &WriteView, stored: &Entry<RawRecord>| match args.no_ttl {
        true => Ok(None),
        false => writing::kept_ttl(view, stored, args.keep_deadline),
    };
    ttl(&view, &stored)?;
    let mut form = form_of(&view, &key, &stored, args.raw)?;
    let file = Draft::create(&form)?;
    let may_reopen = app.is_interactive() && args.if_revision.is_none();
    loop {
        // Other programs can use the file while the editor is open.
        let lent = Lent::lend(&target, &view).await?;
        if let Err(failure) = edit(file.path()).await {
            return Err(file.keep_changed(&form, failure));
        }
        let text = fs::read_to_string(file.path()).map_err(|error| {
            Failure::refused(format!("the text of the editor cannot be read ({error}); nothing was written"))
        })?;
        if same_text(&text, &form.text()) {
            app.out.note("unchanged, and nothing was written");
            writing::report(app, view.name(), &key, ("unchanged", Some(stored.revision())), None)?;
            return Ok(Code::Success);
        }
        let after = match form.parse(&text) {
            Ok(after) => after,
            Err(failure) => return Err(file.keep(failure)),
        };
        app.out.note_lines(&diffs::lines(app, &form.text(), &after.text()));
        let ttl = match ttl(&view, &stored) {
            Ok(ttl) => ttl,
            Err(failure) => return Err(file.keep(failure)),
        };
        if args.options.dry_run {
            writing::report(app, view.name(), &key, ("update", None), ttl)?;
            return Ok(Code::Success);
        }
        let bytes = match after.bytes() {
            Ok(bytes) => bytes,
            Err(failure) => return Err(file.keep(failure)),
        };
        if let Some(lent) = lent {
            (target, view) = match lent.reopen(app, &args).await {
                Ok(reopened) => reopened,
                Err(failure) => return Err(file.keep(failure)),
            };
        }
        match send(&view, &key, &stored, bytes, (ttl, args.raw)).await {
            Ok(revision) => {
                if let Some(ttl) = ttl {
                    app.out.note(&format!("the record expires in {}", time::short(ttl)));
                }
                writing::report(app, view.name(), &key, ("update", Some(revision)), ttl)?;
                return Ok(Code::Success);
            }
            Err(failure) if failure.code == Code::Conflict && may_reopen => {}
            Err(failure) => return Err(file.keep(failure)),
        }
        // Another writer came first. The editor opens on the newest record with the change merged.
        let newest = match read(&view, &key).await {
            Ok(Some(newest)) => newest,
            Ok(None) => return Err(file.keep(Failure::conflict(format!("record `{key}` was removed during the edit")))),
            Err(failure) => return Err(file.keep(failure)),
        };
        let theirs = form_of(&view, &key, &newest, args.raw).map_err(|failure| file.keep(failure))?;
        app.out.note(&format!(
            "another writer changed the record: revision {} -> {}",
            stored.revision(),
            newest.revision()
        ));
        app.out.note_lines(&diffs::lines(app, &form.text(), &theirs.text()));
        app.out.note("the editor opens on the newest record with your change merged");
        fs::write(file.path(), theirs.merged(&form, &after).text())?;
        (stored, form) = (newest, theirs);
    }
}

async fn read(view: &WriteView, key: &Key) -> Result<Option<Entry<RawRecord>>, Failure> {
    Ok(view.bucket.get(key).read(Read::Leader).await?)
}

/// A store in a file that is closed during the edit, so that another process can open the file.
struct Lent {
    /// The creation time of the bucket.
    created: SystemTime,
}

impl Lent {
    /// Closes the store. Returns `None` and does nothing if several processes can open the store.
    async fn lend(target: &Target, view: &WriteView) -> Result<Option<Self>, Failure> {
        if !target.is_exclusive() {
            return Ok(None);
        }
        let created = view.bucket.status().await?.created;
        target.store.close().await?;
        Ok(Some(Self { created }))
    }

    /// Opens the store and the bucket again.
    async fn reopen(self, app: &App, args: &Args) -> Result<(Target, WriteView), Failure> {
        let target = app.reopen().await?;
        let view = WriteView::open(&target, &args.bucket, args.options.allow_unindexed).await?;
        // A recreated bucket starts its revisions again, so they cannot be compared.
        match view.bucket.status().await?.created == self.created {
            true => Ok((target, view)),
            false => Err(Failure::conflict(format!("bucket `{}` was recreated during the edit", args.bucket))),
        }
    }
}

/// Writes the record, if it still has the revision that was shown.
async fn send(
    view: &WriteView,
    key: &Key,
    stored: &Entry<RawRecord>,
    bytes: Vec<u8>,
    (ttl, is_raw): (Option<std::time::Duration>, bool),
) -> Result<Revision, Failure> {
    let record = RawRecord::new(key.clone(), bytes);
    let update = view.bucket.update(&record, stored.revision()).headers(writing::kept_headers(stored, is_raw)?);
    Ok(match ttl {
        Some(ttl) => update.ttl(ttl).await?,
        None => update.await?,
    })
}

/// Returns the text of a record. Refuses a value that an edit would change in other places, too.
fn form_of(view: &WriteView, key: &Key, stored: &Entry<RawRecord>, is_raw: bool) -> Result<Form, Failure> {
    if !is_raw {
        let decoded = view.models.decode(key, stored.headers(), &stored.bytes);
        let exact = decoded.exact(&stored.bytes).map_err(|reason| {
            Failure::data(format!("record `{key}`: {reason}")).hint("edit the stored text with `--raw`")
        })?;
        return Ok(match exact {
            (Codec::Text, Json::Text(text)) => Form::Text(text.clone()),
            (codec, value) => Form::Json(codec, value.clone()),
        });
    }
    match std::str::from_utf8(&stored.bytes) {
        Ok(text) => Ok(Form::Text(text.to_owned())),
        Err(_) => Err(Failure::data(format!("record `{key}` is not a text"))
            .hint("save it with `kvtyped get --raw`, and write it with `kvtyped put --raw B KEY @FILE`")),
    }
}

impl Form {
    fn text(&self) -> String {
        match self {
            Self::Json(_, value) => format!("{}\n", value.pretty()),
            Self::Text(text) => text.clone(),
        }
    }

    /// Reads the edited text.
    fn parse(&self, text: &str) -> Result<Self, Failure> {
        match self {
            Self::Json(codec, _) => {
                let value = Json::parse(text.as_bytes())
                    .map_err(|error| Failure::data(format!("the edited text is not JSON: {error}")))?;
                Ok(Self::Json(*codec, value))
            }
            // Editors end a file with a line feed.
            Self::Text(before) => {
                let ended = text.strip_suffix('\n').filter(|_| !before.ends_with('\n'));
                Ok(Self::Text(ended.unwrap_or(text).to_owned()))
            }
        }
    }

    fn bytes(&self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Json(codec, value) => codec.encode(value).map_err(Failure::data),
            Self::Text(text) => Ok(text.clone().into_bytes()),
        }
    }

    /// Applies the change from `before` to `after` to this newer record. A text cannot be merged.
    fn merged(&self, before: &Self, after: &Self) -> Self {
        match (before, after, self) {
            (Self::Json(_, before), Self::Json(_, after), Self::Json(codec, newest)) => {
                Self::Json(*codec, merge(before, after, newest))
            }
            _ => after.clone(),
        }
    }
}

/// Whether two texts are the same but for a line feed at the end.
fn same_text(a: &str, b: &str) -> bool {
    a.trim_end_matches('\n') == b.trim_end_matches('\n')
}

/// The file in the editor, which only this user may read.
struct Draft(NamedTempFile);

impl Draft {
    fn create(form: &Form) -> Result<Self, Failure> {
        let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
        let suffix = if matches!(form, Form::Json(..)) { ".json" } else { ".txt" };
        // The mode is 0600.
        let mut file = tempfile::Builder::new()
            .prefix("kvtyped-")
            .suffix(suffix)
            .tempfile_in(folder.unwrap_or_else(std::env::temp_dir))?;
        file.write_all(form.text().as_bytes())?;
        file.flush()?;
        Ok(Self(file))
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    /// Keeps the text of the user after a failure, if the user changed it.
    fn keep_changed(&self, form: &Form, failure: Failure) -> Failure {
        match fs::read_to_string(self.path()).is_ok_and(|text| same_text(&text, &form.text())) {
            true => failure,
            false => self.keep(failure),
        }
    }

    /// Keeps the text of the user after a failure.
    fn keep(&self, failure: Failure) -> Failure {
        let path = self.path().with_extension("kept");
        match fs::copy(self.path(), &path) {
            Ok(_) => failure.hint(format!("your text is in `{}`", path.display())),
            Err(error) => failure.hint(format!("your text could not be kept: {error}")),
        }
    }
}

/// Runs the editor.
async fn edit(file: &std::path::Path) -> Result<(), Failure> {
    let named =
        ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|editor| !editor.is_empty()));
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let editor = match named {
        Some(editor) => editor,
        None if is_terminal => "vi".to_owned(),
        None => {
            return Err(Failure::usage("there is no terminal for an editor")
                .hint("name a command in EDITOR, or change fields with `kvtyped patch`"));
        }
    };
    let _foreground = Foreground::enter();
    // A shell, because the variable may contain arguments.
    let status = tokio::process::Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file)
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| Failure::local(format!("editor `{editor}`: {error}")))?;
    let editor = escape_lines(&editor);
    match status.code() {
        Some(0) => Ok(()),
        // The shell cannot find or start the command.
        Some(126 | 127) => Err(Failure::usage(format!("cannot run the editor `{editor}`; nothing was written"))
            .hint("name a command in VISUAL or EDITOR, or change fields with `kvtyped patch`")),
        _ => Err(Failure::refused(format!("the editor `{editor}` ended with {status}; nothing was written"))),
    }
}
