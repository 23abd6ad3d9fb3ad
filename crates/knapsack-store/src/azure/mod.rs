//! Azure's blobs: <https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api>.

#[cfg(test)]
mod azurite;
mod chain;

use crate::client::{Answer, Client, failure};
use crate::lent::{is_loopback, wrong};
use crate::pages::{MAX_PAGE, Page, Shape, all, unreadable};
use crate::sign::{escape, query};
use crate::{Patience, variable};
use chain::{Chain, Key};
use knapsack_bundle::cache::{Object, Store, StoreError};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::time::SystemTime;
use ureq::http::{Request, Uri};

/// The interface's version.
const VERSION: &str = "2021-12-02";
/// What follows an account's name.
const SUFFIX: &str = "blob.core.windows.net";

const LIST: Shape = Shape {
    object: &["Blobs", "Blob"],
    name: &["Name"],
    size: &["Properties", "Content-Length"],
    modified: &["Properties", "Last-Modified"],
    next: &["NextMarker"],
};

pub(crate) struct Azure {
    client: Client,
    chain: Chain,
    account: String,
    /// Without `/` at the end.
    endpoint: String,
    host: String,
    container: String,
    /// Empty, or with `/` at the end.
    prefix: String,
}

impl fmt::Debug for Azure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Azure").field("place", &self.place("")).field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// Whether an address is one of Azure's own.
pub(crate) fn is_azure(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| account_of(host).is_some())
}

fn account_of(host: &str) -> Option<&str> {
    // Sovereign clouds have other endings.
    let (account, rest) = host.split_once('.')?;
    (rest == SUFFIX || rest.starts_with("blob.core.")).then_some(account)
}

impl Azure {
    /// `https://account.blob.core.windows.net/container/prefix`, perhaps with a signature.
    pub(crate) fn at(
        uri: &Uri,
        lookup: &dyn Fn(&str) -> Option<OsString>,
        patience: Patience,
    ) -> Result<Self, StoreError> {
        let host = uri.host().unwrap_or_default();
        let account = account_of(host).unwrap_or_default().to_owned();
        let chain = match uri.query() {
            Some(signature) => Chain::signature(signature),
            None => Chain::find(lookup, &Settings::of_environment(lookup, Some(&account)))?,
        };
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        if authority.contains('@') {
            return Err(StoreError::new("credentials do not belong into the address"));
        }
        Self::new(account, format!("https://{authority}"), uri.path().trim_start_matches('/'), chain, patience)
    }

    /// `az://container/prefix` of the account that the environment names.
    pub(crate) fn open(
        rest: &str,
        lookup: &dyn Fn(&str) -> Option<OsString>,
        patience: Patience,
    ) -> Result<Self, StoreError> {
        let settings = Settings::of_environment(lookup, None);
        let account = settings.account.clone().ok_or_else(|| {
            wrong("az:// needs the account's name in AZURE_STORAGE_ACCOUNT, or AZURE_STORAGE_CONNECTION_STRING")
        })?;
        let endpoint = settings.endpoint.clone().unwrap_or_else(|| format!("https://{account}.{SUFFIX}"));
        let chain = Chain::find(lookup, &settings)?;
        Self::new(account, endpoint, rest, chain, patience)
    }

    fn new(
        account: String,
        endpoint: String,
        rest: &str,
        chain: Chain,
        patience: Patience,
    ) -> Result<Self, StoreError> {
        let (container, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_name =
            !container.is_empty() && container.bytes().all(|b| b.is_ascii_alphanumeric() || b"-$".contains(&b));
        if !is_name || prefix.contains(['?', '#']) {
            return Err(StoreError::new("it is not an address of a container: az://container/prefix"));
        }
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let uri: Option<Uri> = endpoint.parse().ok();
        let usable = |uri: &Uri| match uri.scheme_str() {
            Some("https") => uri.query().is_none(),
            Some("http") => uri.query().is_none() && uri.host().is_some_and(is_loopback),
            _ => false,
        };
        let host = uri.filter(usable).and_then(|uri| uri.authority().map(ToString::to_string));
        let host = host.filter(|host| !host.contains('@'));
        let host = host.ok_or_else(|| StoreError::new("the account's address cannot be used: https alone is"))?;
        let prefix = prefix.trim_matches('/');
        Ok(Self {
            client: Client::new(&endpoint, patience),
            chain,
            account,
            host,
            container: container.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            endpoint,
        })
    }

    fn place(&self, name: &str) -> String {
        format!("{}/{}/{}{name}", self.host, self.container, self.prefix)
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        pairs: &[(&str, &str)],
        extra: &[(&'static str, &'static str)],
        body: &[u8],
        limit: u64,
    ) -> Result<Answer, StoreError> {
        let key = self.chain.key()?;
        let place = format!("{}{path}", self.endpoint);
        let request = || {
            let date = chrono::DateTime::<chrono::Utc>::from(SystemTime::now());
            let date = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
            let mut headers: BTreeMap<&str, &str> = extra.iter().copied().collect();
            headers.extend([("x-ms-date", &*date), ("x-ms-version", VERSION)]);
            let mut question = query(pairs);
            let authorization = match &key {
                Key::Shared(secret) => {
                    let uri: Uri = place.parse().map_err(|_| StoreError::new("a name cannot be sent"))?;
                    let unsigned = Unsigned { method, path: uri.path(), query: pairs, headers: &headers, body };
                    Some(format!("SharedKey {}:{}", self.account, unsigned.sign(&self.account, &secret.0)?))
                }
                Key::Token(token) => Some(format!("Bearer {}", token.0)),
                Key::Signature(signature) => {
                    question.push_str(if question.is_empty() { "" } else { "&" });
                    question.push_str(&signature.0);
                    None
                }
            };
            let question = if question.is_empty() { question } else { format!("?{question}") };
            let mut request = Request::builder().method(method).uri(format!("{place}{question}"));
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            request.body(body.to_vec()).map_err(|_| StoreError::new("a name or a credential cannot be sent"))
        };
        self.client.send(limit, &request)
    }

    fn object(
        &self,
        method: &str,
        name: &str,
        extra: &[(&'static str, &'static str)],
        body: &[u8],
        limit: u64,
    ) -> Result<Answer, StoreError> {
        let path = format!("/{}/{}", escape(&self.container, false), escape(&format!("{}{name}", self.prefix), true));
        self.send(method, &path, &[], extra, body, limit)
    }
}

/// What the environment says of an account.
#[derive(Default)]
struct Settings {
    account: Option<String>,
    endpoint: Option<String>,
    key: Option<String>,
    signature: Option<String>,
}

impl Settings {
    /// The variables of Azure's own command line; those of another account than `wanted` are none.
    fn of_environment(lookup: &dyn Fn(&str) -> Option<OsString>, wanted: Option<&str>) -> Self {
        let get = |name: &str| variable(lookup, name);
        let found = match get("AZURE_STORAGE_CONNECTION_STRING") {
            Some(text) => Self::of_connection(&text),
            None => Self {
                account: get("AZURE_STORAGE_ACCOUNT"),
                endpoint: None,
                key: get("AZURE_STORAGE_KEY"),
                signature: get("AZURE_STORAGE_SAS_TOKEN"),
            },
        };
        let is_other = wanted.is_some() && found.account.is_some() && found.account.as_deref() != wanted;
        if is_other { Self::default() } else { found }
    }

    /// `Name=value;Name=value`.
    fn of_connection(text: &str) -> Self {
        let pairs: Vec<_> = text.split(';').filter_map(|pair| pair.split_once('=')).collect();
        let get = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let (account, suffix) = (get("AccountName"), get("EndpointSuffix"));
        let usual = account.as_ref().zip(suffix).map(|(account, suffix)| format!("https://{account}.blob.{suffix}"));
        let endpoint = get("BlobEndpoint").or(usual);
        let of_endpoint = || {
            let uri: Uri = endpoint.as_ref()?.parse().ok()?;
            account_of(uri.host()?).map(str::to_owned)
        };
        let account = account.or_else(of_endpoint);
        Self { account, key: get("AccountKey"), signature: get("SharedAccessSignature"), endpoint }
    }
}

/// A request as an account's key signs it:
/// <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>.
struct Unsigned<'a> {
    method: &'a str,
    /// Escaped, as it is sent.
    path: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: &'a BTreeMap<&'a str, &'a str>,
    body: &'a [u8],
}

impl Unsigned<'_> {
    fn text(&self, account: &str) -> String {
        let header = |name: &str| self.headers.get(name).copied().unwrap_or_default();
        let length = if self.body.is_empty() { String::new() } else { self.body.len().to_string() };
        // Content-Encoding, -Language, -Length, -MD5, -Type, Date, If-Modified-Since, If-Match, If-None-Match, If-Unmodified-Since, Range.
        let usual = ["", "", &length, "", header("content-type"), "", "", "", header("if-none-match"), "", ""];
        let own = self.headers.iter().filter(|(name, _)| name.starts_with("x-ms-"));
        let own: String = own.map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let mut pairs = self.query.to_vec();
        pairs.sort_unstable();
        let pairs: String = pairs.iter().map(|(name, value)| format!("\n{name}:{value}")).collect();
        format!("{}\n{}\n{own}/{account}{}{pairs}", self.method, usual.join("\n"), self.path)
    }

    fn sign(&self, account: &str, key: &str) -> Result<String, StoreError> {
        chain::hmac(key, &self.text(account)).ok_or_else(|| wrong("the account's key is not Base64"))
    }
}

impl Store for Azure {
    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let answer = self.object("GET", name, &[], b"", limit)?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 if !is_no_container(&answer) => Ok(None),
            _ => Err(failure(&self.place(name), &answer, false)),
        }
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let answer = self.object("HEAD", name, &[], b"", 0)?;
        match answer.status {
            200 => Ok(answer.headers.get("content-length").and_then(|text| text.to_str().ok()?.parse().ok())),
            404 => Ok(None),
            _ => Err(failure(&self.place(name), &answer, false)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8], only_new: bool) -> Result<bool, StoreError> {
        let kind = ("x-ms-blob-type", "BlockBlob");
        let extra: &[_] = if only_new { &[kind, ("if-none-match", "*")] } else { &[kind] };
        let answer = self.object("PUT", name, extra, bytes, 0)?;
        match answer.status {
            200 | 201 => Ok(true),
            409 | 412 if only_new => Ok(false),
            _ => Err(failure(&self.place(name), &answer, true)),
        }
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let answer = self.object("DELETE", name, &[], b"", 0)?;
        match answer.status {
            200 | 202 | 204 | 404 => Ok(()),
            _ => Err(failure(&self.place(name), &answer, true)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let (path, prefix) = (format!("/{}", escape(&self.container, false)), format!("{}{prefix}", self.prefix));
        all(&self.prefix, &mut |marker| {
            let mut pairs = vec![("comp", "list"), ("prefix", &*prefix), ("restype", "container")];
            pairs.extend(marker.map(|marker| ("marker", marker)));
            let answer = self.send("GET", &path, &pairs, &[], b"", MAX_PAGE)?;
            match answer.status {
                200 => Page::of_xml(&answer.body, &LIST).ok_or_else(unreadable),
                _ => Err(failure(&self.place(""), &answer, false)),
            }
        })
    }
}

fn is_no_container(answer: &Answer) -> bool {
    String::from_utf8_lossy(&answer.body).contains("ContainerNotFound")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lent::peer::lookup;

    #[test]
    fn what_is_signed_is_what_azure_says() {
        // The page's own example of listing a container.
        let headers = BTreeMap::from([("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"), ("x-ms-version", "2015-02-21")]);
        let query = [("restype", "container"), ("comp", "metadata"), ("timeout", "20")];
        let unsigned = Unsigned { method: "GET", path: "/mycontainer", query: &query, headers: &headers, body: b"" };
        assert_eq!(
            unsigned.text("myaccount"),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
             /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        );
        assert!(unsigned.sign("myaccount", "no base64!").is_err());
    }

    #[test]
    fn accounts_are_found_where_azures_own_tools_look() {
        let open = |rest: &str, pairs: &[(&str, &str)]| Azure::open(rest, &lookup(pairs), Patience::default());
        let key = "c2VjcmV0";
        let named = open("team/a/b/", &[("AZURE_STORAGE_ACCOUNT", "acc"), ("AZURE_STORAGE_KEY", key)]).unwrap();
        assert_eq!(named.place("x"), "acc.blob.core.windows.net/team/a/b/x");
        assert!(!format!("{named:?}").contains(key), "{named:?}");
        let text = format!(
            "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={key}==;EndpointSuffix=core.chinacloudapi.cn"
        );
        let connected = open("team", &[("AZURE_STORAGE_CONNECTION_STRING", &text)]).unwrap();
        assert_eq!(connected.endpoint, "https://acc.blob.core.chinacloudapi.cn");
        let signed = "BlobEndpoint=https://acc.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=hidden%3D";
        let signed = open("team", &[("AZURE_STORAGE_CONNECTION_STRING", signed)]).unwrap();
        assert!(signed.account == "acc" && !format!("{signed:?}").contains("hidden"));
        let refused = |rest: &str, pairs: &[(&str, &str)]| open(rest, pairs).unwrap_err().problem;
        assert!(refused("team", &[]).contains("AZURE_STORAGE_ACCOUNT"));
        let open_network = format!("AccountName=acc;AccountKey={key};BlobEndpoint=http://elsewhere.example/");
        let problem = refused("team", &[("AZURE_STORAGE_CONNECTION_STRING", &open_network)]);
        assert!(problem.contains("https") && !problem.contains(key), "{problem}");
        assert!(refused("", &[("AZURE_STORAGE_ACCOUNT", "acc"), ("AZURE_STORAGE_KEY", key)]).contains("container"));
    }

    #[test]
    fn an_address_of_azures_own_takes_the_key_of_its_account_alone() {
        let at = |address: &str, pairs: &[(&str, &str)]| {
            let uri: Uri = address.parse().unwrap();
            assert!(is_azure(&uri));
            Azure::at(&uri, &lookup(pairs), Patience::default()).unwrap()
        };
        let key = [("AZURE_STORAGE_ACCOUNT", "acc"), ("AZURE_STORAGE_KEY", "c2VjcmV0")];
        let own = at("https://acc.blob.core.windows.net/team/x", &key);
        assert!(matches!(own.chain.key().unwrap(), Key::Shared(_)) && own.prefix == "x/");
        let other = at("https://other.blob.core.windows.net/team", &key);
        assert!(!matches!(other.chain, Chain::Fixed(_)), "{other:?}");
        let signed = at("https://other.blob.core.windows.net/team?sv=1&sig=hidden", &key);
        assert!(matches!(signed.chain.key().unwrap(), Key::Signature(_)));
        assert!(!is_azure(&"https://blob.core.example.com/x".parse().unwrap()));
        assert!(!is_azure(&"http://acc.blob.core.windows.net/x".parse().unwrap()));
    }

    #[test]
    fn a_page_of_a_list_is_read() {
        let text = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ContainerName=\"c\"><Prefix>p/</Prefix><Blobs>\
            <Blob><Name>p/a&amp;b</Name><Properties><Last-Modified>Thu, 26 Nov 2026 09:00:00 GMT</Last-Modified>\
            <Content-Length>7</Content-Length></Properties></Blob></Blobs><NextMarker>2!x</NextMarker></EnumerationResults>";
        let page = Page::of_xml(text.as_bytes(), &LIST).unwrap();
        assert_eq!((page.objects[0].name.as_str(), page.objects[0].size), ("p/a&b", 7));
        assert!(page.objects[0].modified.is_some() && page.next.as_deref() == Some("2!x"));
        let last = "<EnumerationResults><Blobs /><NextMarker /></EnumerationResults>";
        let last = Page::of_xml(last.as_bytes(), &LIST).unwrap();
        assert!(last.objects.is_empty() && last.next.is_none());
    }
}
