//! Stores for a shared cache, by their address:
//!
//! | address | store | credentials |
//! |---|---|---|
//! | `s3://bucket/prefix` | Amazon S3, and what speaks its language at `AWS_ENDPOINT_URL` (MinIO, R2, Ceph) | `AWS_…`, a job's token, the file that Amazon's own tools read, the role of the machine |
//! | `gs://bucket/prefix` | Google Cloud Storage by its S3 interface | an HMAC key of Google's, in the environment or that file |
//! | `https://…`, `http://…` | any server that answers GET, HEAD, PUT and DELETE | `KNAPSACK_CACHE_TOKEN`, as `Authorization: Bearer` |
//! | `https://account.blob.core.windows.net/container?sv=…` | Azure by a shared access signature | the signature in the address |
//!
//! Every request has limits of time and size, and is tried again when the network or the server fails it. Credentials go to the
//! store alone, redirects are not followed, and no message holds more of an address than its host and path.

mod client;
mod credentials;
mod roles;
mod s3;
mod sign;
mod web;

pub use client::Patience;

use knapsack_bundle::cache::{Store, StoreError};
use std::ffi::OsString;
use std::sync::Arc;

/// The store at `address`; `lookup` finds variables of the environment.
///
/// # Errors
/// An address of no store, credentials that are missing or cannot be read.
pub fn open(
    address: &str,
    lookup: &dyn Fn(&str) -> Option<OsString>,
    patience: Patience,
) -> Result<Arc<dyn Store>, StoreError> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    match scheme {
        "s3" | "gs" => Ok(Arc::new(s3::S3::open(scheme, rest, lookup, patience)?)),
        "http" | "https" => Ok(Arc::new(web::Web::open(address, lookup, patience)?)),
        _ => Err(StoreError::new("it is not an address of a shared cache: s3://, gs://, https:// or http://")),
    }
}

/// A variable of the environment that says something.
fn variable(lookup: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<String> {
    lookup(name)?.into_string().ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}
