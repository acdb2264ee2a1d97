//! Documents of which we alone know the meaning, read and written as a whole.

use serde::{Serialize, de::DeserializeOwned};

use super::{Decision, EditError, change};
use crate::cluster::{MapStore, format::Document};

/// Reads the document at `path` (directly below the root; the default where there is none), has it changed, and writes it, if
/// it was. `update` may run several times.
pub async fn update<T, R>(
    store: &dyn MapStore,
    path: &str,
    update: impl Fn(&mut T) -> R,
) -> Result<R, EditError>
where
    T: Serialize + DeserializeOwned + Default,
{
    let decide = |[read]: &[super::Read; 1]| {
        let malformed = |reason| EditError::Malformed { path: path.to_owned(), reason };
        let mut value: T =
            if read.exists() { read.document.decode().map_err(malformed)? } else { T::default() };
        let result = update(&mut value);
        let document = Document::encode(&value).map_err(malformed)?;
        let edit = (document != read.document).then(|| read.write(&document));
        Ok(Decision { edits: edit.into_iter().collect(), result })
    };
    Ok(change(store, [path], decide).await?.0)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::cluster::{StoreOptions, connect};

    #[derive(Serialize, Deserialize, Default)]
    #[serde(default)]
    struct Count {
        count: u32,
    }

    #[tokio::test]
    async fn updates_made_at_once_are_all_made() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("embedded:{}", dir.path().display());
        let store = connect(&address, "/backpack", &StoreOptions::default()).unwrap();
        store.init().await.unwrap();
        let add = || {
            update(&*store, "/count", |count: &mut Count| {
                count.count += 1;
                count.count
            })
        };
        futures_util::future::try_join_all((0..8).map(|_| add())).await.unwrap();
        assert_eq!(add().await.unwrap(), 9);
        let entry = store.get("/count").await.unwrap().unwrap();
        update(&*store, "/count", |_: &mut Count| ()).await.unwrap();
        assert_eq!(
            store.get("/count").await.unwrap().unwrap(),
            entry,
            "nothing changed, so nothing is written"
        );
    }
}
