//! What Gradle takes: a library as an AAR, in a Maven repository.

use crate::archive::{self, Member};
use crate::error::BundleError;
use std::fmt::Write as _;

/// Another artifact that one needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependency<'a> {
    /// Who publishes it.
    pub group: &'a str,
    /// The `artifactId`.
    pub name: &'a str,
    /// Its oldest version.
    pub version: &'a str,
    /// What it is: `jar` or `aar`.
    pub packaging: &'a str,
}

/// An Android library with its place in a Maven repository.
#[derive(Clone, Copy, Debug)]
pub struct MavenArtifact<'a> {
    /// Who publishes it.
    pub group: &'a str,
    /// The `artifactId`.
    pub name: &'a str,
    /// Of this release.
    pub version: &'a str,
    /// What it is, in a line.
    pub description: &'a str,
    /// What Gradle adds to an app with it.
    pub dependencies: &'a [Dependency<'a>],
}

impl MavenArtifact<'_> {
    /// As Gradle's files name it.
    pub fn coordinates(&self) -> String {
        format!("{}:{}:{}", self.group, self.name, self.version)
    }

    /// Its folder in a repository, with `/`.
    pub fn folder(&self) -> String {
        format!("{}/{}/{}", self.group.replace('.', "/"), self.name, self.version)
    }

    /// One of its files in that folder.
    pub fn file(&self, extension: &str) -> String {
        format!("{}-{}.{extension}", self.name, self.version)
    }

    /// Its project file, of Maven's model 4.0.0.
    pub fn pom(&self) -> String {
        let mut text = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <project xmlns=\"http://maven.apache.org/POM/4.0.0\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
             xsi:schemaLocation=\"http://maven.apache.org/POM/4.0.0 https://maven.apache.org/xsd/maven-4.0.0.xsd\">\n  \
             <modelVersion>4.0.0</modelVersion>\n",
        );
        let element = |text: &mut String, indent: &str, name: &str, value: &str| {
            let _ = writeln!(text, "{indent}<{name}>{}</{name}>", escaped(value));
        };
        for (name, value) in [("groupId", self.group), ("artifactId", self.name), ("version", self.version)] {
            element(&mut text, "  ", name, value);
        }
        element(&mut text, "  ", "packaging", "aar");
        element(&mut text, "  ", "description", self.description);
        if !self.dependencies.is_empty() {
            text.push_str("  <dependencies>\n");
            for dependency in self.dependencies {
                text.push_str("    <dependency>\n");
                let Dependency { group, name, version, packaging } = dependency;
                for (name, value) in [("groupId", group), ("artifactId", name), ("version", version)] {
                    element(&mut text, "      ", name, value);
                }
                // Maven takes a dependency that does not say for a jar.
                element(&mut text, "      ", "type", packaging);
                element(&mut text, "      ", "scope", "compile");
                text.push_str("    </dependency>\n");
            }
            text.push_str("  </dependencies>\n");
        }
        text.push_str("</project>\n");
        text
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The members of an AAR: a manifest and the files of a library under their paths in it (`classes.jar`, `jni/<abi>/…`, `assets/…`).
/// What every AAR must have and `files` lacks is there empty. Files are stored, since Gradle unpacks them anyway; the same contents
/// give the same bytes.
///
/// # Errors
/// Two files of one name.
pub fn aar_members(manifest: &str, files: Vec<Member>) -> Result<Vec<Member>, BundleError> {
    let problem = |problem: String| BundleError::Object { format: "an AAR", problem };
    let mut jar = Vec::new();
    archive::write(&[Member::bytes("META-INF/MANIFEST.MF", *b"Manifest-Version: 1.0\n\n")], &mut jar)
        .map_err(|error| problem(error.to_string()))?;
    let metadata = *b"aarFormatVersion=1.0\naarMetadataVersion=1.0\n";
    let mut members = vec![
        Member::bytes("AndroidManifest.xml", manifest.as_bytes()),
        Member::bytes("META-INF/com/android/build/gradle/aar-metadata.properties", metadata),
    ];
    for (name, bytes) in [("classes.jar", jar), ("R.txt", Vec::new())] {
        if !files.iter().any(|given| given.name == name) {
            members.push(Member::bytes(name, bytes));
        }
    }
    members.extend(files);
    members.sort_by(|a, b| a.name.cmp(&b.name));
    match members.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(problem(format!("two files of one name: {}", pair[0].name))),
        None => Ok(members),
    }
}

/// An AAR in memory, of files in memory.
///
/// # Errors
/// As [`aar_members`]; more than a ZIP file holds.
pub fn aar(manifest: &str, files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, BundleError> {
    let files = files.iter().map(|(name, bytes)| Member::bytes(name, bytes.as_slice())).collect();
    let members = aar_members(manifest, files)?;
    archive::size(&members)?;
    let mut bytes = Vec::new();
    archive::write(&members, &mut bytes)
        .map_err(|error| BundleError::Object { format: "an AAR", problem: error.to_string() })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Read};
    use zip::ZipArchive;

    const ARTIFACT: MavenArtifact<'_> = MavenArtifact {
        group: "ai.knapsack",
        name: "runtime",
        version: "0.1.0",
        description: "A & B",
        dependencies: &[Dependency { group: "org.example", name: "other", version: "1.2", packaging: "aar" }],
    };

    #[test]
    fn an_aar_has_what_gradle_needs_and_what_was_given() {
        let files =
            [("jni/arm64-v8a/libx.so".to_owned(), vec![7; 100]), ("proguard.txt".to_owned(), b"-keep".to_vec())];
        let bytes = aar("<manifest/>", &files).unwrap();
        assert_eq!(bytes, aar("<manifest/>", &files).unwrap(), "not deterministic");
        let mut archive = ZipArchive::new(Cursor::new(&bytes)).unwrap();
        let mut read = |name: &str| {
            let mut found = Vec::new();
            archive.by_name(name).unwrap().read_to_end(&mut found).unwrap();
            found
        };
        assert_eq!((read("AndroidManifest.xml"), read("R.txt")), (b"<manifest/>".to_vec(), Vec::new()));
        assert_eq!(read("jni/arm64-v8a/libx.so"), [7; 100]);
        assert!(ZipArchive::new(Cursor::new(read("classes.jar"))).unwrap().len() == 1);
        let own = aar("", &[("classes.jar".to_owned(), b"jar".to_vec())]).unwrap();
        let mut archive = ZipArchive::new(Cursor::new(&own)).unwrap();
        assert_eq!(archive.by_name("classes.jar").unwrap().size(), 3);
        let twice = ["a", "a"].map(|name| (name.to_owned(), Vec::new()));
        assert!(aar("", &twice).is_err());
    }

    #[test]
    fn a_repository_has_its_places_and_project_files() {
        assert_eq!(ARTIFACT.coordinates(), "ai.knapsack:runtime:0.1.0");
        assert_eq!(
            format!("{}/{}", ARTIFACT.folder(), ARTIFACT.file("aar")),
            "ai/knapsack/runtime/0.1.0/runtime-0.1.0.aar"
        );
        let pom = ARTIFACT.pom();
        assert!(
            pom.contains("<description>A &amp; B</description>")
                && pom.contains("<artifactId>other</artifactId>")
                && pom.contains("<type>aar</type>")
        );
        assert_eq!(pom.matches('<').count(), pom.matches('>').count());
    }
}
