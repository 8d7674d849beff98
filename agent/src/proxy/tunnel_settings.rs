//! How tunnels are set up on both sides.

/// Streams that one tunnel carries at once; the next one gets another tunnel.
pub(crate) const STREAMS_MAX: u32 = 100;

/// What one stream may have on its way unread. It is also the bound of what a connection to a stalled reader costs.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;

/// What a tunnel may have on its way unread: the windows of all its streams, so that readers which have stalled, however
/// many, take nothing from the others.
pub(crate) const CONNECTION_WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;

/// The largest frame that is taken. Larger ones save work and make the streams of a tunnel wait longer for one another.
pub(crate) const FRAME_BYTES_MAX: u32 = 256 * 1024;

/// The headers of a CONNECT are few, those of a request are its application's.
pub(crate) const HEADER_BYTES_MAX: u32 = super::http::HEADER_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h8_the_window_of_a_tunnel_holds_those_of_all_its_streams() {
        assert_eq!(CONNECTION_WINDOW / STREAM_WINDOW, STREAMS_MAX);
    }
}
