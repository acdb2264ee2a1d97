//! The client's errors in the words of the seam.

use zookeeper_client::Error;

use crate::cluster::{
    Edit, StoreError,
    path::{self, Root},
};

/// An error of a call about one document.
pub(super) fn to_store_error(path: &str, error: Error) -> StoreError {
    let path = path.to_owned();
    match error {
        Error::NoNode => StoreError::NotInitialised { path },
        Error::NodeExists | Error::BadVersion => StoreError::Conflict { path },
        Error::NoAuth | Error::AuthFailed | Error::InvalidAcl => {
            StoreError::Denied(format!("{path}: {error}"))
        }
        Error::QuotaExceeded => StoreError::Denied(format!("{path}: its quota in ZooKeeper is used up")),
        Error::NotEmpty => StoreError::Invalid(format!("{path} has documents below it")),
        Error::NoChildrenForEphemerals => {
            StoreError::Invalid(format!("{path} cannot be made below an announced document"))
        }
        Error::BadArguments(what) => StoreError::Invalid(format!("{path}: {what}")),
        Error::MarshallingError => StoreError::Invalid(format!("{path}: {error}")),
        Error::Unimplemented => StoreError::Unavailable("ZooKeeper 3.6 or later is needed".to_owned()),
        // Lost connections and sessions, hung servers (an `Error::Custom`), throttling: it may work later.
        error => StoreError::Unavailable(error.to_string()),
    }
}

/// An error of one edit of a transaction.
pub(super) fn of_edit(edit: &Edit, root: &Root, error: Error) -> StoreError {
    match (edit, error) {
        // No parent: nothing was initialised there.
        (Edit::Create { path, .. }, Error::NoNode) => {
            StoreError::NotInitialised { path: root.absolute(path::parent(path)) }
        }
        // It was there when its version was read.
        (Edit::Set { path, .. } | Edit::Delete { path, .. }, Error::NoNode) => {
            StoreError::Conflict { path: path.clone() }
        }
        (edit, error) => to_store_error(edit.path(), error),
    }
}
