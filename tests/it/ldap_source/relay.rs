//! A relay before a server that does something at a chosen request, so that "in the middle of a read" is the same moment every time.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Relays the first connection to `port`, and runs `action` before passing on the client's request number `at` (from 1).
/// The client waits for each answer, so every chunk it sends is one request. Returns the URI to use.
pub async fn before_request(port: u16, at: usize, action: impl FnOnce() + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("ldap://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut action, mut requests) = (Some(action), 0);
        let (mut up, mut down) = ([0; 16_384], [0; 16_384]);
        loop {
            tokio::select! {
                read = client.read(&mut up) => match read {
                    Ok(length) if length > 0 => {
                        requests += 1;
                        if requests == at && let Some(action) = action.take() {
                            action();
                        }
                        if server.write_all(&up[..length]).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) | Err(_) => return,
                },
                read = server.read(&mut down) => match read {
                    Ok(length) if length > 0 => client.write_all(&down[..length]).await.unwrap(),
                    Ok(_) | Err(_) => return,
                },
            }
        }
    });
    uri
}
