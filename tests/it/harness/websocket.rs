//! A WebSocket server that says back what it is told, and a client that holds it to that.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, accept_async, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::HeaderValue},
};

/// How long one message may take there and back.
const PATIENCE: Duration = Duration::from_secs(20);

/// Gives up what takes longer than a message may.
async fn in_time<T>(does: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(PATIENCE, does).await.unwrap_or_else(|_| Err(Error::Io(std::io::ErrorKind::TimedOut.into())))
}

/// Serves in the runtime that this is called in, until that ends.
pub(crate) async fn serve_echo(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() || socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Is an open conversation.
pub(crate) struct Conversation(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Conversation {
    /// Upgrades a connection through a port of loopback.
    ///
    /// # Errors
    /// Where the upgrade is refused.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Error> {
        Self::open_as(address, "").await
    }

    /// Upgrades a connection with a request of this id; where it is empty, the mesh gives it one.
    ///
    /// # Errors
    /// Where the upgrade is refused.
    pub(crate) async fn open_as(address: SocketAddr, id: &str) -> Result<Self, Error> {
        let mut request = format!("ws://{address}/echo").into_client_request()?;
        if !id.is_empty() {
            request.headers_mut().insert("x-request-id", HeaderValue::from_str(id)?);
        }
        let (socket, _) = in_time(connect_async(request)).await?;
        Ok(Self(socket))
    }

    /// Says something and waits to hear it.
    ///
    /// # Errors
    /// Where the conversation is over.
    pub(crate) async fn exchange(&mut self, message: Message) -> Result<(), Error> {
        in_time(self.0.send(message.clone())).await?;
        let heard = timeout(PATIENCE, self.0.next()).await.expect("an echo in time");
        assert_eq!(heard.ok_or(Error::ConnectionClosed)??, message);
        Ok(())
    }

    /// Ends it, and waits until the other side has.
    pub(crate) async fn end(mut self) {
        // Whoever is gone already has ended it, too.
        let _said = in_time(self.0.close(None)).await;
        timeout(PATIENCE, self.closed()).await.expect("the other side ends it, too");
    }

    /// Waits until the other side or the mesh ends it.
    pub(crate) async fn closed(&mut self) {
        while let Some(Ok(_)) = self.0.next().await {}
    }
}
