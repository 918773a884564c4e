//! Closures: an image with all it was made of, on its way from one store to another.
//!
//! A closure is a document and chunks. The document names every file by the digests of its chunks, and whoever sends it signs it; a chunk is
//! named by its digest and is one MiB or the rest of a file. Two images share most of their chunks, as do a disk and the file systems it was made of.
//! ```text
//! closures/KEY.closure          the document; KEY.image.closure where it holds the image alone
//! chunks/ab/abcdef...           the chunks
//! ```
//! Under these names they lie in a directory, behind a web server or in a bucket ([`remote`]), and in this order in one file ([`archive`]).
//!
//! What comes in is a stranger's until the contrary is shown. Every chunk is compared with its name, every entry with its manifest, and nothing
//! gets a name in the store before all of it is there. A layer cannot be compared with its key, which is that of what it was made of: so layers, of
//! which this home would make images and sign them, are taken only from a sender whose key is trusted. Inputs are taken from anybody, their
//! name is their digest; an image too, which is not run unless a trusted key signed it.

pub mod archive;
pub mod aws_files;
pub mod document;
pub mod incoming;
pub mod outgoing;
pub mod remote;

pub use self::document::Closure;

/// What is asked of a closure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The image, its layers and the fetched inputs that its recipe names.
    Whole,
    /// The image alone.
    Image,
}
