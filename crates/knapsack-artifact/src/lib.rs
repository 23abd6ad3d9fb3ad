//! The contract between the machine that packages and the device that runs: every file that crosses from one to the other is
//! defined here and nowhere else.
//!
//! * [`WeightIndex`]: which tensor lies where in a weight folder ([`weight_index`]).
//! * [`ChatConfig`]: what the runtime must know beside the weights ([`chat_config`], [`conv_template`]).
//! * [`AppConfig`]: what the app reads to know its models ([`app_config`]).
//! * [`DeviceKind`]: what libraries are compiled for and packages are made for ([`device`]).
//! * [`Delivery`]: how weights get onto a device ([`delivery`]).
//! * [`ModelLibrary`]: one compiled model, as data ([`library`], [`plan`]); validated as a whole before anything executes it;
//!   module `container` (a feature) finds it in the files that carry it.
//! * How files of models are read, whoever wrote them ([`json`], [`encoding`]), and how files get their place ([`files`]).
//! * [`ModelTable`]: all libraries of a package behind one symbol ([`table`]).
//! * [`TokenTables`]: a tokenizer that is mapped instead of built ([`token_tables`]).
//!
//! `knapsack-compiler`, `knapsack-weights` and `knapsack-bundle` write these; `knapsack-device` and `knapsack-runtime` read
//! them. Everything read is taken for hostile.

pub mod app_config;
pub mod chat_config;
#[cfg(feature = "containers")]
pub mod container;
pub mod conv_template;
pub mod delivery;
pub mod device;
pub mod encoding;
pub mod files;
pub mod json;
pub mod library;
pub mod names;
pub mod plan;
pub mod table;
pub mod token_tables;
pub mod validate;
pub mod weight_index;

pub use app_config::AppConfig;
pub use chat_config::ChatConfig;
pub use conv_template::ConvTemplate;
pub use delivery::Delivery;
pub use device::DeviceKind;
pub use library::{InvalidLibrary, LibraryError, ModelLibrary};
pub use table::ModelTable;
pub use token_tables::TokenTables;
pub use weight_index::WeightIndex;
