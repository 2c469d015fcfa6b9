//! Two threads, one channel: names go one way, greetings come back.

use std::error::Error;
use std::thread;

use ringport::MessageChannel;

fn main() -> Result<(), Box<dyn Error>> {
    let MessageChannel { port1, port2 } = MessageChannel::new()?;

    // A port belongs to one thread at a time, so each thread gets one of the two.
    let greeter = thread::spawn(move || -> Result<(), Box<dyn Error + Send + Sync>> {
        for event in port2.iter() {
            let name = event.data::<String>()?;
            port2.post_message(&format!("Hello, {name}!"))?;
        }
        Ok(()) // the channel was closed
    });

    for name in ["world", "ring"] {
        port1.post_message(&name.to_string())?;
        println!("{}", port1.recv()?.data::<String>()?);
    }

    port1.close();
    greeter
        .join()
        .expect("the greeter does not panic")
        .map_err(|error| error as Box<dyn Error>)
}
