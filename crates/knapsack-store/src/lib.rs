//! Stores for a shared cache, by their address:
//!
//! | address | store | credentials |
//! |---|---|---|
//! | `s3://bucket/prefix` | Amazon S3, and what speaks its language at `AWS_ENDPOINT_URL` (MinIO, R2, Ceph) | `AWS_…`, a job's token, the files that Amazon's own tools read, the role of the machine |
//! | `gs://bucket/prefix` | Google Cloud Storage | Google's chain (Application Default Credentials); or an HMAC key in `AWS_…`, for its S3 interface |
//! | `az://container/prefix`, `https://account.blob.core.windows.net/container/prefix` | Azure | `AZURE_STORAGE_…`, a signature in the address, or the chain of `DefaultAzureCredential` |
//! | `https://…`, `http://…` | any server that answers GET, HEAD, PUT and DELETE | `KNAPSACK_CACHE_TOKEN`, as `Authorization: Bearer` |
//!
//! Every request has limits of time and size, and is tried again when the network or the server fails it. Credentials go to the
//! store alone, redirects are not followed, and no message holds more of an address than its host and path.

mod azure;
mod client;
mod credentials;
mod google;
mod lent;
mod pages;
mod profile;
mod roles;
mod s3;
mod sign;
mod web;
mod xml;

pub use client::Patience;

use knapsack_bundle::cache::{Store, StoreError};
use std::ffi::OsString;
use std::sync::Arc;
use ureq::http::Uri;

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
        "s3" => Ok(Arc::new(s3::S3::open(scheme, rest, lookup, patience)?)),
        "gs" => match google::Google::open(rest, lookup, patience)? {
            Some(store) => Ok(Arc::new(store)),
            None => Ok(Arc::new(s3::S3::open(scheme, rest, lookup, patience)?)),
        },
        "az" => Ok(Arc::new(azure::Azure::open(rest, lookup, patience)?)),
        "http" | "https" => match address.parse::<Uri>().ok().filter(azure::is_azure) {
            Some(uri) => Ok(Arc::new(azure::Azure::at(&uri, lookup, patience)?)),
            None => Ok(Arc::new(web::Web::open(address, lookup, patience)?)),
        },
        _ => Err(StoreError::new("it is not an address of a shared cache: s3://, gs://, az://, https:// or http://")),
    }
}

/// A variable of the environment that says something.
fn variable(lookup: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<String> {
    lookup(name)?.into_string().ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}
