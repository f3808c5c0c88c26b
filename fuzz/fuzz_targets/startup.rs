//! Any bytes as a startup packet; what can be read is written and read again alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::build;
use weir::wire::startup::{self, PACKET_BYTES_MAX, Startup};

fuzz_target!(|data: &[u8]| {
    let length = startup::packet_bytes(data);
    if let Ok(Some(length)) = length {
        assert!((8..=PACKET_BYTES_MAX).contains(&length));
    }
    let _ = startup::options(data);
    let mut again = Vec::new();
    match startup::parse(data) {
        Ok(Startup::Session(message)) => {
            let _ = (message.replication(), message.protocol_options());
            let _ = startup::options(message.parameter("options").unwrap_or_default());
            let pairs: Vec<(&[u8], &[u8])> =
                message.parameters.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
            build::startup(&mut again, &pairs);
            let Ok(Startup::Session(read)) = startup::parse(&again) else { panic!("it was read before") };
            assert_eq!(read.parameters, message.parameters);
        }
        Ok(Startup::Cancel { process, secret }) => {
            build::cancel_request(&mut again, process, &secret);
            assert_eq!(startup::parse(&again), Ok(Startup::Cancel { process, secret }));
        }
        Ok(Startup::SslRequest | Startup::GssEncRequest) | Err(_) => {}
    }
});
