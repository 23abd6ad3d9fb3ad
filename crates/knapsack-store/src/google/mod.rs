//! Google Cloud Storage by its JSON interface: <https://cloud.google.com/storage/docs/json_api/v1>.

mod chain;

use crate::client::{Answer, Client, failure};
use crate::lent::{Secret, is_loopback};
use crate::pages::{MAX_PAGE, Page, all, unreadable};
use crate::s3::bucket_and_prefix;
use crate::sign::{escape, query};
use crate::{Patience, variable};
use chain::Chain;
use knapsack_bundle::cache::{Object, Store, StoreError};
use serde::Deserialize;
use std::ffi::OsString;
use ureq::http::{Request, Uri, header};

const ENDPOINT: &str = "https://storage.googleapis.com";

#[derive(Debug)]
pub(crate) struct Google {
    client: Client,
    /// `None`: an emulator, which asks for nothing.
    chain: Option<Chain>,
    endpoint: String,
    bucket: String,
    /// Empty, or with `/` at the end.
    prefix: String,
}

impl Google {
    /// `None`: Amazon's variables hold a key of Google's and nothing of Google's own is set, so the S3 interface is meant.
    pub(crate) fn open(
        rest: &str,
        lookup: &dyn Fn(&str) -> Option<OsString>,
        patience: Patience,
    ) -> Result<Option<Self>, StoreError> {
        let get = |name: &str| variable(lookup, name);
        let (bucket, prefix) = bucket_and_prefix("gs", rest)?;
        let emulator = get("STORAGE_EMULATOR_HOST");
        let has_key = get("AWS_PROFILE").is_some()
            || (get("AWS_ACCESS_KEY_ID").is_some() && get("AWS_SECRET_ACCESS_KEY").is_some());
        if emulator.is_none() && get(chain::FILE).is_none() && has_key {
            return Ok(None);
        }
        let (endpoint, chain) = match emulator {
            Some(host) => (emulator_at(&host)?, None),
            None => (ENDPOINT.to_owned(), Some(Chain::find(lookup)?)),
        };
        Ok(Some(Self { client: Client::new(&endpoint, patience), chain, endpoint, bucket, prefix }))
    }

    fn place(&self, name: &str) -> String {
        format!("gs://{}/{}{name}", self.bucket, self.prefix)
    }

    fn send(&self, method: &str, path: &str, body: &[u8], limit: u64) -> Result<Answer, StoreError> {
        let token: Option<Secret> = self.chain.as_ref().map(Chain::token).transpose()?;
        let request = || {
            let mut request = Request::builder().method(method).uri(format!("{}{path}", self.endpoint));
            if let Some(Secret(token)) = &token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if !body.is_empty() {
                request = request.header(header::CONTENT_TYPE, "application/octet-stream");
            }
            request.body(body.to_vec()).map_err(|_| StoreError::new("a name or a token cannot be sent"))
        };
        self.client.send(limit, &request)
    }

    fn object(&self, name: &str, question: &str) -> String {
        let name = escape(&format!("{}{name}", self.prefix), false);
        format!("/storage/v1/b/{}/o/{name}?{question}", escape(&self.bucket, false))
    }
}

fn emulator_at(host: &str) -> Result<String, StoreError> {
    let address = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
    let address = address.trim_end_matches('/').to_owned();
    let near = address.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(is_loopback));
    if near { Ok(address) } else { Err(StoreError::new("STORAGE_EMULATOR_HOST is not on this machine")) }
}

fn is_no_bucket(answer: &Answer) -> bool {
    String::from_utf8_lossy(&answer.body).contains("bucket does not exist")
}

impl Store for Google {
    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let answer = self.send("GET", &self.object(name, "alt=media"), b"", limit)?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 if !is_no_bucket(&answer) => Ok(None),
            _ => Err(failure(&self.place(name), &answer, false)),
        }
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let answer = self.send("GET", &self.object(name, "fields=name,size"), b"", MAX_PAGE)?;
        match answer.status {
            200 => Ok(serde_json::from_slice::<Item>(&answer.body).ok().and_then(|item| item.size.parse().ok())),
            404 if !is_no_bucket(&answer) => Ok(None),
            _ => Err(failure(&self.place(name), &answer, false)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8], only_new: bool) -> Result<bool, StoreError> {
        let full = format!("{}{name}", self.prefix);
        let mut pairs = vec![("uploadType", "media"), ("name", &*full)];
        if only_new {
            // Generation 0: there is none.
            pairs.push(("ifGenerationMatch", "0"));
        }
        let path = format!("/upload/storage/v1/b/{}/o?{}", escape(&self.bucket, false), query(&pairs));
        let answer = self.send("POST", &path, bytes, MAX_PAGE)?;
        match answer.status {
            200 | 201 => Ok(true),
            412 if only_new => Ok(false),
            _ => Err(failure(&self.place(name), &answer, true)),
        }
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let answer = self.send("DELETE", &self.object(name, ""), b"", MAX_PAGE)?;
        match answer.status {
            200 | 204 | 404 => Ok(()),
            _ => Err(failure(&self.place(name), &answer, true)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let prefix = format!("{}{prefix}", self.prefix);
        all(&self.prefix, &mut |token| {
            let mut pairs = vec![("prefix", &*prefix), ("fields", "items(name,size,updated),nextPageToken")];
            pairs.extend(token.map(|token| ("pageToken", token)));
            let path = format!("/storage/v1/b/{}/o?{}", escape(&self.bucket, false), query(&pairs));
            let answer = self.send("GET", &path, b"", MAX_PAGE)?;
            match answer.status {
                200 => serde_json::from_slice::<List>(&answer.body).ok().and_then(List::page).ok_or_else(unreadable),
                _ => Err(failure(&self.place(""), &answer, false)),
            }
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    #[serde(default)]
    items: Vec<Item>,
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    name: String,
    /// A number, as text.
    size: String,
    updated: Option<String>,
}

impl List {
    fn page(self) -> Option<Page> {
        let object = |item: Item| {
            let modified = item.updated.as_deref().and_then(crate::lent::time);
            Some(Object { name: item.name, size: item.size.parse().ok()?, modified })
        };
        let objects = self.items.into_iter().map(object).collect::<Option<_>>()?;
        Some(Page { objects, next: self.next_page_token })
    }
}
