//! What goes over a stream: frames, each `u32` bytes that follow
//! (little-endian) and the bytes, until the stream ends.

use std::io;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt};

/// Bytes of a frame beside its content.
pub(super) const HEAD: usize = 4;

/// Appends a frame. Content is bounded by whoever queues it, far below `u32`.
pub(super) fn append(to: &mut Vec<u8>, content: &[u8]) {
    to.extend_from_slice(&(content.len() as u32).to_le_bytes());
    to.extend_from_slice(content);
}

/// Reads a frame of at most `limit` bytes; `None` where the stream ends
/// between two. Takes memory for what comes, not for what is announced.
pub(super) async fn read<T>(io: &mut T, limit: usize) -> io::Result<Option<Bytes>>
where
    T: AsyncRead + Unpin,
{
    let mut head = [0; HEAD];
    let got = io.read(&mut head).await?;
    if got == 0 {
        return Ok(None);
    }
    io.read_exact(&mut head[got..]).await?;
    let length = u32::from_le_bytes(head) as usize;
    if length > limit {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = Vec::with_capacity(length.min(64 << 10));
    io.take(length as u64).read_to_end(&mut content).await?;
    if content.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(content.into()))
}

#[cfg(test)]
mod tests {
    use futures::{executor::block_on, io::Cursor};

    use super::*;

    fn all(bytes: &[u8], limit: usize) -> io::Result<Vec<Bytes>> {
        let mut io = Cursor::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = block_on(read(&mut io, limit))? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_back_as_they_were_and_every_cut_is_noticed() {
        let frames = [&b"one"[..], b"", &[7; 100]];
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for frame in frames {
            append(&mut bytes, frame);
            ends.push(bytes.len());
        }
        assert_eq!(all(&bytes, 100).unwrap(), frames);
        for length in 0..bytes.len() {
            let whole = ends.iter().position(|end| *end == length);
            match all(&bytes[..length], 100) {
                Ok(got) => assert_eq!(Some(got.len()), whole, "cut to {length}"),
                Err(_) => assert_eq!(whole, None, "cut to {length}"),
            }
        }
    }

    #[test]
    fn what_is_too_long_or_never_comes_is_an_error() {
        assert!(all(&101u32.to_le_bytes(), 100).is_err());
        assert!(all(&u32::MAX.to_le_bytes(), usize::MAX).is_err());
    }
}
