//! Amazon's signature of requests, version 4:
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.

use crate::credentials::Credentials;
use ring::hmac;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// A request as it is signed.
pub(crate) struct Unsigned<'a> {
    pub(crate) method: &'a str,
    /// Escaped.
    pub(crate) path: &'a str,
    /// Names and values, not escaped.
    pub(crate) query: &'a [(&'a str, &'a str)],
    /// Besides those that the signature adds: names in small letters.
    pub(crate) headers: Vec<(&'a str, String)>,
    pub(crate) body: &'a [u8],
}

/// All headers of the signed request but `host`. `date` is `YYYYMMDDTHHMMSSZ`.
pub(crate) fn sign(
    request: Unsigned<'_>,
    host: &str,
    region: &str,
    date: &str,
    credentials: &Credentials,
) -> Vec<(String, String)> {
    let content = hex::encode(Sha256::digest(request.body));
    let mut headers = request.headers;
    headers.push(("host", host.to_owned()));
    headers.push(("x-amz-content-sha256", content.clone()));
    headers.push(("x-amz-date", date.to_owned()));
    if let Some(session) = &credentials.session {
        headers.push(("x-amz-security-token", session.clone()));
    }
    headers.sort();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines = headers.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name}:{}", value.trim());
        text
    });
    let query = query(request.query);
    let canonical = format!("{}\n{}\n{query}\n{lines}\n{names}\n{content}", request.method, request.path);
    let day = date.get(..8).unwrap_or(date);
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let key = [day, region, "s3", "aws4_request"]
        .iter()
        .fold(format!("AWS4{}", credentials.secret).into_bytes(), |key, part| hmac(&key, part.as_bytes()));
    let signature = hex::encode(hmac(&key, text.as_bytes()));
    let id = &credentials.id;
    let authorization = format!("AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={signature}");
    let own = headers.into_iter().filter(|(name, _)| *name != "host").map(|(name, value)| (name.to_owned(), value));
    own.chain([("authorization".to_owned(), authorization)]).collect()
}

/// A query in the order and form that is signed.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let mut escaped: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{}={}", escape(name, false), escape(value, false))).collect();
    escaped.sort();
    escaped.join("&")
}

/// Percent-encoding as Amazon wants it; in a path `/` stays.
pub(crate) fn escape(text: &str, is_path: bool) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            b'/' if is_path => escaped.push('/'),
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
        escaped
    })
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Amazon's own examples, from the page above.
    #[test]
    fn amazons_examples_are_signed_as_amazon_signs_them() {
        let credentials = Credentials {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            session: None,
        };
        let signature = |request: Unsigned<'_>| {
            let host = "examplebucket.s3.amazonaws.com";
            let headers = sign(request, host, "us-east-1", "20130524T000000Z", &credentials);
            let (_, value) = headers.into_iter().find(|(name, _)| name == "authorization").unwrap();
            value.rsplit_once('=').unwrap().1.to_owned()
        };
        let get = |path, query| Unsigned { method: "GET", path, query, headers: Vec::new(), body: b"" };
        let range = Unsigned { headers: vec![("range", "bytes=0-9".into())], ..get("/test.txt", &[]) };
        assert_eq!(signature(range), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        let put = Unsigned {
            method: "PUT",
            path: &escape("/test$file.text", true),
            query: &[],
            headers: vec![
                ("date", "Fri, 24 May 2013 00:00:00 GMT".into()),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY".into()),
            ],
            body: b"Welcome to Amazon S3.",
        };
        assert_eq!(signature(put), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
        let lifecycle = signature(get("/", &[("lifecycle", "")]));
        assert_eq!(lifecycle, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
        let list = signature(get("/", &[("prefix", "J"), ("max-keys", "2")]));
        assert_eq!(list, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    }

    #[test]
    fn names_are_escaped_as_amazon_wants() {
        assert_eq!(escape("a b/ü~.-_", true), "a%20b/%C3%BC~.-_");
        assert_eq!(escape("a/b=c&", false), "a%2Fb%3Dc%26");
    }
}
