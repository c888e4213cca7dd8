//! What goes over a stream: a push of transactions, and one byte back when
//! the receiver's node has taken them.
//!
//! A push is `u32` bytes that follow, then per transaction `u32` length and
//! the bytes; little-endian.

use std::io;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};

pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/tally/transactions/1");
/// Most bytes of small transactions that share a push.
pub(super) const BATCH_BYTES: usize = 1 << 20;
const TAKEN: u8 = 1;

/// Reads and writes pushes of at most `limit` bytes.
#[derive(Debug, Clone)]
pub(super) struct Batches {
    limit: usize,
}

impl Batches {
    /// For transactions of at most `max_message` bytes.
    pub(super) fn new(max_message: usize) -> Self {
        Self {
            limit: (max_message + 4).max(BATCH_BYTES),
        }
    }
}

/// Cuts a push into its transactions. `None` if it is malformed.
fn split(push: Bytes, max: usize) -> Option<Vec<Bytes>> {
    let mut rest = push;
    let mut transactions = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
        if length > max || rest.len() - 4 < length {
            return None;
        }
        transactions.push(rest.slice(4..4 + length));
        rest = rest.slice(4 + length..);
    }
    Some(transactions)
}

fn join(transactions: &[Bytes]) -> Vec<u8> {
    let bytes: usize = transactions.iter().map(|t| 4 + t.len()).sum();
    let mut push = Vec::with_capacity(4 + bytes);
    push.extend_from_slice(&(bytes as u32).to_le_bytes());
    for transaction in transactions {
        push.extend_from_slice(&(transaction.len() as u32).to_le_bytes());
        push.extend_from_slice(transaction);
    }
    push
}

#[async_trait::async_trait]
impl request_response::Codec for Batches {
    type Protocol = StreamProtocol;
    type Request = Vec<Bytes>;
    type Response = ();

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<Bytes>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut length = [0; 4];
        io.read_exact(&mut length).await?;
        let length = u32::from_le_bytes(length) as usize;
        if length > self.limit {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // Grows with what really comes, not with what is announced.
        let mut push = Vec::with_capacity(length.min(64 << 10));
        io.take(length as u64).read_to_end(&mut push).await?;
        if push.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        split(push.into(), self.limit).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<()>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut taken = [0; 1];
        io.read_exact(&mut taken).await?;
        if taken == [TAKEN] {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        transactions: Vec<Bytes>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&join(&transactions)).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, (): ()) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&[TAKEN]).await
    }
}

#[cfg(test)]
mod tests {
    use futures::{executor::block_on, io::Cursor};
    use libp2p::request_response::Codec;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<Bytes>> {
        block_on(Batches::new(100).read_request(&PROTOCOL, &mut Cursor::new(bytes)))
    }

    #[test]
    fn pushes_come_back_as_they_were_and_every_cut_is_an_error() {
        let transactions = vec![
            Bytes::from_static(b"one"),
            Bytes::new(),
            vec![7; 100].into(),
        ];
        let push = join(&transactions);
        assert_eq!(read(&push).unwrap(), transactions);
        for length in 0..push.len() {
            assert!(read(&push[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        assert!(read(&u32::MAX.to_le_bytes()).is_err());
        assert!(read(&[5, 0, 0, 0, 255, 255, 255, 255, 0]).is_err());
        assert!(read(&[6, 0, 0, 0, 3, 0, 0, 0, 1, 2]).is_err());
        assert!(read(&[3, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
