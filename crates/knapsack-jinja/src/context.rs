/// A value that a template is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Context {
    /// Text that counts as the template's own, such as the name of a role.
    Trusted(String),
    /// JSON whose strings are data.
    Data(serde_json::Value),
    /// A list.
    List(Vec<Context>),
    /// A dictionary.
    Map(Vec<(String, Context)>),
}
