//! Confirmations of dangerous commands.

use std::io::{self, IsTerminal};

use crate::app::{App, Target};
use crate::fail::Failure;

/// Asks the user to type a text. Refuses without a terminal.
async fn ask(app: &App, question: &str, expected: &str, is_dangerous: bool, flag: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::refused(format!("{question}, and there is no terminal to confirm it on")).hint(flag));
    }
    app.out.prompt(&format!("{question}.\nType `{expected}` to continue: "), is_dangerous);
    let read = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = read.await.map_err(|error| Failure::local(error.to_string()))??;
    match answer.trim() == expected {
        true => Ok(()),
        false => Err(Failure::refused("not confirmed, and nothing was changed")),
    }
}

/// Asks for the number of records that a command removes or overwrites. `--yes` answers.
pub(crate) async fn count(app: &App, what: &str, count: u64) -> Result<(), Failure> {
    if app.options.yes {
        return Ok(());
    }
    ask(app, what, &count.to_string(), false, "add `--yes` after you have checked the count with `--dry-run`").await
}

/// Asks for a name, such as the name of a bucket that is removed. `--yes` answers.
pub(crate) async fn name(app: &App, what: &str, name: &str) -> Result<(), Failure> {
    if app.options.yes {
        return Ok(());
    }
    ask(app, what, name, false, "add `--yes` if you are sure").await
}

/// Asks for the name of a bucket in production. `--yes` does not answer, except without a terminal.
pub(crate) async fn production(app: &App, target: &Target, bucket: &str) -> Result<(), Failure> {
    if app.options.yes && !io::stdin().is_terminal() {
        return Ok(());
    }
    let context = target.context.as_ref().map_or("", |context| context.name.as_str());
    let question = format!("This writes to bucket `{bucket}` of the production context `{context}`");
    ask(app, &question, bucket, true, "add `--yes` if you are sure").await
}
