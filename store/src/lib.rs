//! StreamHouse's objects in an object store, opened by URL.
//!
//! An agent writes objects with [`Store::create`]: one create-only attempt, no retry inside, because only the
//! agent knows what it may do again (ONCE). A client reads byte ranges with [`Store::get_range`] and
//! [`Store::get_tail`] (READ: a short answer is an error, never a short record). Before an agent trusts a
//! store it runs [`Store::probe`]: a store that lets two writers of one key win would break ONCE without a sign.
//!
//! | URL | what it is |
//! |---|---|
//! | `file:///srv/streamhouse` | a folder of this machine, synced to disk before a write is reported done |
//! | `s3://bucket/prefix` | S3 and what speaks its protocol; options from `AWS_*` |
//! | `gs://bucket/prefix` | Google Cloud Storage; options from `GOOGLE_*` |
//! | `az://container/prefix` | Azure Blob Storage; options from `AZURE_*` |
//! | `memory://name` | inside this process, shared by name: for tests |

mod create;
mod entropy;
mod error;
mod fault;
mod folder;
mod list;
mod location;
mod open;
mod options;
mod probe;
mod read;
mod store;
mod upload;

#[cfg(feature = "contract")]
pub mod contract;
#[cfg(feature = "endpoint")]
pub mod endpoint;

pub use create::Created;
pub use error::{GetError, OpenError, ProbeError, PutError};
pub use list::Listed;
pub use location::StoreKind;
pub use options::StoreOptions;
pub use store::Store;
pub use upload::Upload;

// What [`Store::create`] takes and [`Store::from_object_store`] wraps, so that callers need no second version.
pub use object_store::{ObjectStore, PutPayload};
