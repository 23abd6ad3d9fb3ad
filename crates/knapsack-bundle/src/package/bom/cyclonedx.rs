//! The part of CycloneDX 1.5 that a bill of materials uses, as <https://cyclonedx.org/docs/1.5/json/> names it.

use crate::package::ContentHash;
use serde::Serialize;

const SCHEMA: &str = "http://cyclonedx.org/schema/bom-1.5.schema.json";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bom {
    #[serde(rename = "$schema")]
    schema: &'static str,
    bom_format: &'static str,
    spec_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) serial_number: Option<String>,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Serialize)]
pub(super) struct Metadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timestamp: Option<String>,
    pub(super) tools: Tools,
    pub(super) component: Component,
}

#[derive(Debug, Serialize)]
pub(super) struct Tools {
    pub(super) components: Vec<Component>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Application,
    Data,
    File,
    Library,
    MachineLearningModel,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Component {
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    #[serde(rename = "bom-ref", skip_serializing_if = "Option::is_none")]
    pub(super) bom_ref: Option<String>,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) licenses: Vec<LicenceChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) purl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pedigree: Option<Pedigree>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) external_references: Vec<Reference>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) properties: Vec<Property>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) components: Vec<Component>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct LicenceChoice {
    pub(super) license: Licence,
}

/// By SPDX's identifier, or by name.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Licence {
    Id(&'static str),
    Name(String),
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Pedigree {
    pub(super) ancestors: Vec<Component>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Reference {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) url: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Property {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Dependency {
    #[serde(rename = "ref")]
    pub(super) name: String,
    pub(super) depends_on: Vec<String>,
}

impl Bom {
    pub(super) fn new(metadata: Metadata, components: Vec<Component>, dependencies: Vec<Dependency>) -> Self {
        let (schema, bom_format, spec_version) = (SCHEMA, "CycloneDX", "1.5");
        Self { schema, bom_format, spec_version, serial_number: None, version: 1, metadata, components, dependencies }
    }

    /// The file's text.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a bill of materials has only serializable fields");
        text.push(b'\n');
        text
    }
}

impl Component {
    /// A component of which nothing but its name is known.
    pub(super) fn new(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            bom_ref: None,
            name: name.to_owned(),
            version: None,
            hashes: Vec::new(),
            licenses: Vec::new(),
            purl: None,
            pedigree: None,
            external_references: Vec::new(),
            properties: Vec::new(),
            components: Vec::new(),
        }
    }

    pub(super) fn file(path: &str, hash: Hash) -> Self {
        Self { hashes: vec![hash], ..Self::new(Kind::File, path) }
    }
}

impl Hash {
    pub(super) fn sha256(digits: &str) -> Self {
        Self { alg: "SHA-256", content: digits.to_owned() }
    }

    pub(super) fn of(hash: &ContentHash) -> Self {
        match hash {
            ContentHash::Sha256(digits) => Self::sha256(digits),
            ContentHash::Blake3(digits) => Self { alg: "BLAKE3", content: digits.clone() },
        }
    }
}
