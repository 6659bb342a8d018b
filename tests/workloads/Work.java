import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.Arrays;
import java.util.Queue;
import java.util.Random;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.zip.CRC32;

/**
 * A JVM at work: sockets with time-outs, hand-overs between threads, garbage, checksums.
 * First line: {"pid": P}.  Answers each line on standard input with {"work": N, "errors": [...]}.
 */
public class Work {
    interface Turn {
        void take() throws Exception;
    }

    static final AtomicLong work = new AtomicLong();
    static final Queue<String> errors = new ConcurrentLinkedQueue<>();

    static void start(String name, Turn turn) {
        Thread thread = new Thread(() -> {
            try {
                while (true) {
                    turn.take();
                    work.incrementAndGet();
                }
            } catch (Throwable error) {
                errors.add("\"" + name + ": " + error.toString().replace('"', '\'') + "\"");
            }
        }, name);
        thread.setDaemon(true);
        thread.start();
    }

    static void check(boolean holds, String what) {
        if (!holds) throw new IllegalStateException(what);
    }

    static void sockets() throws Exception {
        ServerSocket listener = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
        Socket near = new Socket(listener.getInetAddress(), listener.getLocalPort());
        Socket far = listener.accept();
        near.setSoTimeout(60_000);
        far.setSoTimeout(60_000);
        byte[] block = new byte[50_000];
        new Random(1).nextBytes(block);
        start("server", () -> far.getOutputStream().write(
                far.getInputStream().readNBytes(block.length)));
        start("client", () -> {
            near.getOutputStream().write(block);
            check(Arrays.equals(near.getInputStream().readNBytes(block.length), block), "block");
        });
    }

    public static void main(String[] arguments) throws Exception {
        sockets();
        SynchronousQueue<Long> queue = new SynchronousQueue<>();
        AtomicLong next = new AtomicLong();
        AtomicLong expected = new AtomicLong();
        start("producer", () -> check(
                queue.offer(next.getAndIncrement(), 60, TimeUnit.SECONDS), "offer"));
        start("consumer", () -> check(
                queue.poll(60, TimeUnit.SECONDS) == expected.getAndIncrement(), "poll"));
        start("garbage", () -> {
            byte[][] blocks = new byte[100][];
            for (int i = 0; i < blocks.length; i++) blocks[i] = new byte[10_000];
            Thread.sleep(1);
            check(blocks[99].length == 10_000, "length");
        });
        byte[] data = new byte[1 << 20];
        start("checksum", () -> {
            CRC32 crc = new CRC32();
            crc.update(data);
            check(crc.getValue() == 0xa738ea1cL, "crc");
        });
        System.out.println("{\"pid\": " + ProcessHandle.current().pid() + "}");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        while (input.readLine() != null) {
            System.out.println("{\"work\": " + work + ", \"errors\": [" + String.join(", ", errors)
                    + "]}");
        }
        System.exit(0);
    }
}
