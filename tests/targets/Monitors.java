import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;

/**
 * java Monitors.java N: threads that wait at the end of a known chain of calls, the last one for a
 * monitor that another thread holds, and objects that a histogram of the heap can count.
 * First line: {"pid": P, "functions": [...], "threads": [NAME, ...], "canaries": COUNT}.
 */
public class Monitors {
    static class Canary {
        long value;
    }

    static final Object never = new Object();
    static final List<Canary> canaries = new ArrayList<>();

    static long inner(CountDownLatch arrived) throws InterruptedException {
        synchronized (never) {
            arrived.countDown();
            never.wait();
        }
        return 1;
    }

    static long middle(CountDownLatch arrived) throws InterruptedException {
        return inner(arrived) + 1;
    }

    static long outer(CountDownLatch arrived) throws InterruptedException {
        return middle(arrived) + 1;
    }

    public static void main(String[] arguments) throws Exception {
        int count = Integer.parseInt(arguments[0]);
        CountDownLatch arrived = new CountDownLatch(count);
        StringBuilder names = new StringBuilder();
        for (int i = 0; i < count; i++) {
            Thread thread = new Thread(() -> {
                try {
                    outer(arrived);
                } catch (InterruptedException end) {
                    Thread.currentThread().interrupt();
                }
            }, "worker-" + i);
            thread.setDaemon(true);
            thread.start();
            names.append(i == 0 ? "\"" : ", \"").append(thread.getName()).append('"');
        }
        for (int i = 0; i < 12_345; i++) canaries.add(new Canary());
        arrived.await();
        System.out.println("{\"pid\": " + ProcessHandle.current().pid()
                + ", \"functions\": [\"inner\", \"middle\", \"outer\"], \"threads\": [" + names
                + "], \"canaries\": " + canaries.size() + "}");
        System.in.read();
    }
}
