//! What a stage gives.

use knapsack_config::{Diagnostic, Severity};

/// A stage's product and what it found: errors are what keeps the product from being used, warnings and notices go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "findings are for the user to see"]
pub struct Outcome<T> {
    /// There unless a finding is an error.
    pub product: Option<T>,
    /// Findings about the manifest, in the order of its models.
    pub findings: Vec<Diagnostic>,
}

impl<T> Outcome<T> {
    /// The product of a stage that found nothing.
    pub fn clean(product: T) -> Self {
        Outcome { product: Some(product), findings: Vec::new() }
    }

    /// With more findings; the product is withheld when one of them is an error.
    pub fn with(self, findings: Vec<Diagnostic>) -> Self {
        let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
        let product = self.product.filter(|_| !failed);
        Outcome { product, findings: [self.findings, findings].concat() }
    }

    /// The product, withheld when there is an error among the findings.
    pub(crate) fn of(product: T, findings: Vec<Diagnostic>) -> Self {
        let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
        Outcome { product: (!failed).then_some(product), findings }
    }
}
