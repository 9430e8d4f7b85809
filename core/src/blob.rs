//! Immutable bytes, shared and never copied on their way through a member.

use core::fmt;
use core::ops::Deref;

use bincode::de::{Decoder, read::Reader};
use bincode::enc::{Encoder, write::Writer};
use bincode::error::{DecodeError, EncodeError};
use bytes::Bytes;

/// A key, a value or an encoded command. Cloning shares the bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob(pub Bytes);

/// The buffer that is being decoded: a decoded [`Blob`] is a slice of it, not a copy.
///
/// A source from [`Source::copying`] makes decoded blobs own their bytes instead, for buffers that must not be kept.
/// It also counts how deep in nested values decoding is, so that hostile bytes cannot exhaust the stack.
#[derive(Clone, Debug)]
pub struct Source {
    buffer: Option<Bytes>,
    depth: u32,
}

/// Values nested deeper than this are refused. (protobuf's own limit is 100, so no client's request reaches it)
pub const NESTING_MAX: u32 = 128;

impl Source {
    /// Decoded blobs are slices of `buffer` and keep it alive.
    #[must_use]
    pub fn sharing(buffer: Bytes) -> Self {
        Self { buffer: Some(buffer), depth: 0 }
    }

    /// Decoded blobs own copies of their bytes.
    #[must_use]
    pub fn copying() -> Self {
        Self { buffer: None, depth: 0 }
    }
}

/// Runs `decode` for a value that may contain others of its own type.
///
/// # Errors
/// Those of `decode`; or the value is nested deeper than [`NESTING_MAX`].
pub fn nested<T, D: Decoder<Context = Source>>(
    decoder: &mut D,
    decode: impl FnOnce(&mut D) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    decoder.context().depth += 1;
    if decoder.context().depth > NESTING_MAX {
        return Err(DecodeError::Other("nested too deeply"));
    }
    let value = decode(decoder)?;
    decoder.context().depth -= 1;
    Ok(value)
}

impl Blob {
    /// The empty blob.
    pub const EMPTY: Self = Self(Bytes::new());

    /// A blob with a copy of `bytes`.
    #[must_use]
    pub fn copy(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl core::borrow::Borrow<[u8]> for Blob {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Blob> for Bytes {
    fn from(blob: Blob) -> Self {
        blob.0
    }
}

impl From<&'static str> for Blob {
    fn from(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }
}

impl From<alloc::vec::Vec<u8>> for Blob {
    fn from(bytes: alloc::vec::Vec<u8>) -> Self {
        Self(Bytes::from(bytes))
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl bincode::Encode for Blob {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        (self.len() as u64).encode(encoder)?;
        encoder.writer().write(self)
    }
}

impl bincode::Decode<Source> for Blob {
    fn decode<D: Decoder<Context = Source>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let len = u64::decode(decoder)?;
        let len = usize::try_from(len).map_err(|_| DecodeError::OutsideUsizeRange(len))?;
        decoder.claim_bytes_read(len)?;
        let source = decoder.context().buffer.clone();
        let blob = match decoder.reader().peek_read(len) {
            Some(bytes) => match source {
                Some(source) => Self(source.slice_ref(bytes)),
                None => Self::copy(bytes),
            },
            None => return Err(DecodeError::UnexpectedEnd { additional: len }),
        };
        decoder.reader().consume(len);
        Ok(blob)
    }
}

bincode::impl_borrow_decode_with_context!(Blob, Source);
