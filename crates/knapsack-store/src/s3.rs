//! S3 and what speaks its language, addressed by path: `endpoint/bucket/name`.

use crate::client::{Answer, Client, failure};
use crate::credentials::Chain;
use crate::pages::{MAX_PAGE, Page, Shape, all, unreadable};
use crate::profile::Profile;
use crate::sign::{Unsigned, escape, query, sign};
use crate::{Patience, variable};
use knapsack_bundle::cache::{Object, Store, StoreError};
use std::ffi::OsString;
use std::time::SystemTime;
use ureq::http::{Request, Uri};

/// `ListObjectsV2`.
const LIST: Shape = Shape {
    object: &["Contents"],
    name: &["Key"],
    size: &["Size"],
    modified: &["LastModified"],
    next: &["NextContinuationToken"],
};

#[derive(Debug)]
pub(crate) struct S3 {
    client: Client,
    credentials: Chain,
    /// Scheme and host.
    endpoint: String,
    host: String,
    region: String,
    bucket: String,
    /// Empty, or with `/` at the end.
    prefix: String,
}

/// The two parts of an address; the prefix is empty or has `/` at its end.
pub(crate) fn bucket_and_prefix(scheme: &str, rest: &str) -> Result<(String, String), StoreError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_name = !bucket.is_empty() && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !is_name || prefix.contains(['?', '#']) {
        return Err(StoreError::new(format!("it is not an address of a bucket: {scheme}://bucket/prefix")));
    }
    let prefix = prefix.trim_matches('/');
    Ok((bucket.to_owned(), if prefix.is_empty() { String::new() } else { format!("{prefix}/") }))
}

impl S3 {
    pub(crate) fn open(
        scheme: &str,
        rest: &str,
        lookup: &dyn Fn(&str) -> Option<OsString>,
        patience: Patience,
    ) -> Result<Self, StoreError> {
        let (bucket, prefix) = bucket_and_prefix(scheme, rest)?;
        let get = |name: &str| variable(lookup, name);
        // Amazon's files are about Amazon.
        let profile = (scheme == "s3").then(|| Profile::read(lookup));
        let written = |property: &str| profile.as_ref()?.get(property);
        let region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION")).or_else(|| written("region"));
        let region = region.unwrap_or_else(|| if scheme == "gs" { "auto" } else { "us-east-1" }.to_owned());
        let endpoint = get("AWS_ENDPOINT_URL_S3").or_else(|| get("AWS_ENDPOINT_URL"));
        let endpoint = endpoint.or_else(|| written("s3.endpoint_url")).or_else(|| written("endpoint_url"));
        let endpoint = endpoint.unwrap_or_else(|| match scheme {
            "gs" => "https://storage.googleapis.com".to_owned(),
            _ => format!("https://s3.{region}.amazonaws.com"),
        });
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let uri: Option<Uri> = endpoint.parse().ok();
        let usable = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.path() == "/" && uri.query().is_none()
        };
        let host = uri.filter(usable).and_then(|uri| uri.authority().map(ToString::to_string));
        let host = host.filter(|host| !host.contains('@'));
        let host = host.ok_or_else(|| {
            StoreError::new(
                "the endpoint (AWS_ENDPOINT_URL, or a profile's endpoint_url) is not an address with a host alone",
            )
        })?;
        Ok(Self {
            client: Client::new(&endpoint, patience),
            credentials: match &profile {
                Some(profile) => Chain::find(lookup, profile, &region)?,
                None => Chain::own(lookup)?,
            },
            endpoint,
            host,
            region,
            bucket,
            prefix,
        })
    }

    fn place(&self, name: &str) -> String {
        format!("s3://{}/{}{name}", self.bucket, self.prefix)
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        pairs: &[(&str, &str)],
        extra: Option<(&str, &str)>,
        body: &[u8],
        limit: u64,
    ) -> Result<Answer, StoreError> {
        let credentials = self.credentials.credentials()?;
        let request = || {
            let date = chrono::DateTime::<chrono::Utc>::from(SystemTime::now()).format("%Y%m%dT%H%M%SZ").to_string();
            let headers = extra.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
            let unsigned = Unsigned { method, path, query: pairs, headers, body };
            let signed = sign(unsigned, &self.host, &self.region, &date, &credentials);
            let question = if pairs.is_empty() { String::new() } else { format!("?{}", query(pairs)) };
            let mut request = Request::builder().method(method).uri(format!("{}{path}{question}", self.endpoint));
            for (name, value) in signed {
                request = request.header(name, value);
            }
            request.body(body.to_vec()).map_err(|_| StoreError::new("a name or a credential cannot be sent"))
        };
        self.client.send(limit, &request)
    }

    fn object(
        &self,
        method: &str,
        name: &str,
        extra: Option<(&str, &str)>,
        body: &[u8],
        limit: u64,
    ) -> Result<Answer, StoreError> {
        let path = format!("/{}/{}", escape(&self.bucket, false), escape(&format!("{}{name}", self.prefix), true));
        self.send(method, &path, &[], extra, body, limit)
    }
}

impl Store for S3 {
    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let answer = self.object("GET", name, None, b"", limit)?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 if !is_no_bucket(&answer) => Ok(None),
            _ => Err(failure(&self.place(name), &answer, false)),
        }
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let answer = self.object("HEAD", name, None, b"", 0)?;
        match answer.status {
            200 => Ok(answer.headers.get("content-length").and_then(|text| text.to_str().ok()?.parse().ok())),
            404 => Ok(None),
            _ => Err(failure(&self.place(name), &answer, false)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8], only_new: bool) -> Result<bool, StoreError> {
        let condition = only_new.then_some(("if-none-match", "*"));
        let mut answer = self.object("PUT", name, condition, bytes, 0)?;
        if only_new && answer.status == 501 {
            answer = self.object("PUT", name, None, bytes, 0)?;
        }
        match answer.status {
            200 | 201 | 204 => Ok(true),
            409 | 412 if only_new => Ok(false),
            _ => Err(failure(&self.place(name), &answer, true)),
        }
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let answer = self.object("DELETE", name, None, b"", 0)?;
        match answer.status {
            200 | 204 | 404 => Ok(()),
            _ => Err(failure(&self.place(name), &answer, true)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let (path, prefix) = (format!("/{}", escape(&self.bucket, false)), format!("{}{prefix}", self.prefix));
        all(&self.prefix, &mut |token| {
            let mut pairs = vec![("list-type", "2"), ("prefix", &*prefix)];
            pairs.extend(token.map(|token| ("continuation-token", token)));
            let answer = self.send("GET", &path, &pairs, None, b"", MAX_PAGE)?;
            match answer.status {
                200 => Page::of_xml(&answer.body, &LIST).ok_or_else(unreadable),
                _ => Err(failure(&self.place(""), &answer, false)),
            }
        })
    }
}

fn is_no_bucket(answer: &Answer) -> bool {
    String::from_utf8_lossy(&answer.body).contains("NoSuchBucket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_a_list_is_read_and_nonsense_is_not() {
        let text = r#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
            <IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b=</NextContinuationToken>
            <Contents><Key>p/x</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>7</Size></Contents>
            <Contents><Key>p/y</Key><Size>8</Size><Owner><ID>Key</ID></Owner></Contents></ListBucketResult>"#;
        let page = Page::of_xml(text.as_bytes(), &LIST).unwrap();
        assert_eq!(page.next.as_deref(), Some("a&b="));
        let names: Vec<_> = page.objects.iter().map(|object| (object.name.as_str(), object.size)).collect();
        assert_eq!(names, [("p/x", 7), ("p/y", 8)]);
        assert!(page.objects[0].modified.is_some() && page.objects[1].modified.is_none());
        for nonsense in ["<a>", "<a></b>", "<r><Contents><Size>-1</Size></Contents></r>", "</a>"] {
            assert!(Page::of_xml(nonsense.as_bytes(), &LIST).is_none(), "{nonsense}");
        }
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        let keys = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => Some(OsString::from("secret")),
            _ => None,
        };
        let open = |rest: &str| S3::open("s3", rest, &keys, Patience::default());
        assert_eq!(open("bucket/a/b/").unwrap().place("x"), "s3://bucket/a/b/x");
        assert_eq!(open("bucket").unwrap().endpoint, "https://s3.us-east-1.amazonaws.com");
        for bad in ["", "/x", "key:secret@bucket/x", "bucket/x?y"] {
            assert!(!open(bad).unwrap_err().problem.contains("secret"), "{bad}");
        }
        assert!(!format!("{:?}", open("bucket").unwrap()).contains("\"secret\""));
        let elsewhere = |name: &str| if name == "AWS_ENDPOINT_URL" { Some("ftp://x".into()) } else { keys(name) };
        assert!(S3::open("s3", "bucket", &elsewhere, Patience::default()).is_err());
    }

    #[test]
    fn a_profile_says_where_the_store_is_unless_the_environment_does() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        let text = "[default]\nregion = eu-north-1\naws_access_key_id = A\naws_secret_access_key = B\n\
                    [profile own]\nendpoint_url = http://127.0.0.1:9000/\ncredential_process = true\n";
        std::fs::write(&config, text).unwrap();
        let open = |scheme: &str, pairs: &[(&str, &str)]| {
            let pairs = [&[("AWS_CONFIG_FILE", config.to_str().unwrap())], pairs].concat();
            S3::open(scheme, "bucket", &crate::lent::peer::lookup(&pairs), Patience::default())
        };
        assert_eq!(open("s3", &[]).unwrap().endpoint, "https://s3.eu-north-1.amazonaws.com");
        let own = open("s3", &[("AWS_PROFILE", "own")]).unwrap();
        assert_eq!((own.endpoint.as_str(), own.region.as_str()), ("http://127.0.0.1:9000", "us-east-1"));
        let environment = [("AWS_PROFILE", "own"), ("AWS_ENDPOINT_URL", "http://localhost:1"), ("AWS_REGION", "x")];
        let other = open("s3", &environment).unwrap();
        assert_eq!((other.endpoint.as_str(), other.region.as_str()), ("http://localhost:1", "x"));
        assert_eq!(open("gs", &[]).unwrap().endpoint, "https://storage.googleapis.com");
    }
}
