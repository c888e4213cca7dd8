//! A witness's connections: anybody may open one, so they are few and short.
//! Each is for one request and its answer, which take milliseconds; whoever
//! sends slowly, or reads nothing, is cut off. None keeps a witness from
//! stopping.

use std::{future::Future, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How many there are at once; others wait.
    most: usize,
    /// From its beginning to the end of the answer.
    life: Duration,
    /// What is left of it when the witness stops.
    drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            most: 256,
            life: Duration::from_secs(20),
            drain: Duration::from_secs(3),
        }
    }
}

/// Serves until `ended`.
pub(super) async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: Limits,
    ended: impl Future<Output = ()>,
) {
    let mut connections = JoinSet::new();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            Some(_) = connections.join_next() => {}
            (stream, _) = Listener::accept(&mut listener), if connections.len() < limits.most => {
                connections.spawn(connection(stream, router.clone(), limits.life));
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // Those that are left are cut off.
    let _ = timeout(limits.drain, drained).await;
}

async fn connection(stream: TcpStream, router: Router, life: Duration) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // One that breaks is its client's affair.
    let _ = timeout(life, served).await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::{body::Bytes, routing::post};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
        task::JoinHandle,
    };

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(60);
    const PART: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";

    async fn start(
        most: usize,
        life: Duration,
    ) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", post(async |body: Bytes| body));
        let (stop, stopped) = oneshot::channel::<()>();
        let limits = Limits {
            most,
            life,
            drain: SHORT,
        };
        let ended = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, router, limits, ended));
        (address, stop, task)
    }

    async fn said(address: SocketAddr, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    /// What comes until the other end closes, which it must.
    async fn answer(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        let read = timeout(LONG, stream.read_to_end(&mut answer)).await;
        // A reset is an end too.
        let _ = read.expect("it is closed");
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_connection_that_is_held_open_does_not_hold_up_a_stop() {
        let (address, stop, task) = start(8, LONG).await;
        let mut open = Vec::new();
        for part in ["", "POST / HT", PART] {
            open.push(said(address, part).await);
        }
        // The one after them is served.
        let whole = format!("{PART}-half");
        assert!(
            answer(said(address, &whole).await)
                .await
                .contains("half-half")
        );
        drop(stop);
        timeout(LONG / 2, task).await.expect("it stops").unwrap();
        for stream in open {
            assert_eq!(answer(stream).await, "");
        }
    }

    #[tokio::test]
    async fn who_says_nothing_is_cut_off_and_makes_room() {
        let (address, _stop, _task) = start(2, SHORT).await;
        let slow = [said(address, "").await, said(address, PART).await];
        // There is room for two: this one waits until they are gone.
        let whole = said(address, &format!("{PART}-half")).await;
        for stream in slow {
            assert_eq!(answer(stream).await, "");
        }
        assert!(answer(whole).await.contains("half-half"));
    }
}
