//! The indexes of a program, compared with the card of its model.

use std::collections::BTreeMap;

use crate::model::index::{IndexCard, IndexState};
use crate::model::{KvModel, ModelCard};

/// Returns the indexes of a bucket that contains no records of the model yet.
pub(super) fn of_new_bucket<T: KvModel>() -> BTreeMap<String, IndexCard> {
    let card = |info| IndexCard::new(info, IndexState::Readable);
    T::__INDEXES.iter().map(|info| (info.name.to_owned(), card(info))).collect()
}

/// Compares the indexes of a program with the card. An index that the card lacks is not built yet, which is no
/// difference.
///
/// # Errors
///
/// Returns the reason if the program would write records without entries, or entries of another definition.
pub(super) fn compare<T: KvModel>(card: &ModelCard, is_read_only: bool) -> Result<(), String> {
    for (name, index) in card.indexes.iter().filter(|(_, index)| index.state.is_maintained()) {
        let name: String = name.chars().take(128).collect();
        let Some(info) = T::__INDEXES.iter().find(|info| info.name == name) else {
            if is_read_only || index.eventual {
                continue;
            }
            return Err(format!(
                "the bucket has the index `{name}`, and this program would write records without its entries; \
                 add the index to the model, or remove it from the bucket with `drop_index(\"{name}\")`"
            ));
        };
        if !index.describes(info) {
            let definition: String = index.definition.chars().take(128).collect();
            return Err(format!(
                "the index `{name}` is `{}`{} here and `{definition}`{} in the bucket; \
                 give the new definition another name, or drop the index and build it again",
                info.definition,
                kind(info.is_unique(), info.is_eventual),
                kind(index.unique, index.eventual),
            ));
        }
    }
    Ok(())
}

fn kind(is_unique: bool, is_eventual: bool) -> &'static str {
    match (is_unique, is_eventual) {
        (true, _) => " (unique)",
        (false, true) => " (eventual)",
        (false, false) => "",
    }
}
