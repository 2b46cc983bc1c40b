//! The checks of the model cards in the metadata of a bucket, of published schemas, and of the states of indexes.

use kvtyped::config::BucketConfig;
use kvtyped::model::ModelCard;
use kvtyped::model::index::IndexState;
use kvtyped::schema::Schema;

use super::Finding;
use crate::records::SCHEMA_PREFIX;

/// Checks the cards of a bucket.
pub(crate) fn check(config: &BucketConfig, found: &mut Vec<Finding>) {
    for (key, text) in &config.metadata {
        let Some(model) = ModelCard::model_of(key) else { continue };
        match ModelCard::parse(text) {
            Err(reason) => found.push(
                Finding::error("card", format!("the card of model `{model}` is unreadable: {reason}"))
                    .repair("let a program of the model open the bucket once, and update its settings"),
            ),
            Ok(card) => {
                versions(model, &card, found);
                schema(model, &card, config, found);
                indexes(model, &card, found);
            }
        }
    }
}

fn versions(model: &str, card: &ModelCard, found: &mut Vec<Finding>) {
    if card.oldest < card.writes {
        let reason = format!("records of model `{model}` may have the versions {} to {}", card.oldest, card.version);
        found.push(
            Finding::note("versions", reason)
                .repair("let a program of the model migrate the records if older programs are gone"),
        );
    }
}

/// Compares the fingerprint of the card with the published schema of its version.
fn schema(model: &str, card: &ModelCard, config: &BucketConfig, found: &mut Vec<Finding>) {
    let Some(wanted) = &card.schema else { return };
    let key = format!("{SCHEMA_PREFIX}{model}.{}", card.version);
    let repair = "let a program of the model open the bucket once, and update the published schema";
    match config.metadata.get(&key).map(|text| Schema::from_json(text)) {
        None => found.push(Finding::note("schema", format!("the schema of model `{model}` is not published"))),
        Some(Err(_)) => found.push(
            Finding::error("schema", format!("the published schema of model `{model}` is unreadable")).repair(repair),
        ),
        Some(Ok(schema)) if schema.fingerprint() != *wanted => {
            let reason = format!("the published schema of model `{model}` is not the one of its card");
            found.push(Finding::warning("schema", reason).repair(repair));
        }
        Some(Ok(_)) => {}
    }
}

fn indexes(model: &str, card: &ModelCard, found: &mut Vec<Finding>) {
    for (name, index) in &card.indexes {
        let what = format!("index `{name}` of model `{model}`");
        found.push(match &index.state {
            IndexState::Readable => Finding::note("indexes", format!("{what} is built"))
                .repair("a program of the model can verify its entries"),
            IndexState::Pending => {
                Finding::error("indexes", format!("several records have one value of the unique {what}"))
                    .repair("let a program of the model verify the index, change one record of each pair that it lists, and let it build the index again")
            }
            IndexState::Dropping => Finding::warning("indexes", format!("{what} is removed, and its entries stay"))
                .repair(format!("let a program of the model drop the index `{name}`")),
            _ => Finding::warning("indexes", format!("{what} is not built, so lookups are refused"))
                .repair(match index.eventual {
                    true => "run a program of the model that maintains its indexes".to_owned(),
                    false => format!("let a program of the model build the index `{name}`"),
                }),
        });
    }
}
