import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;

import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.DefaultRecordBatch;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MemoryRecordsBuilder;
import org.apache.kafka.common.record.internal.SimpleRecord;
import org.apache.kafka.common.utils.internals.ByteBufferOutputStream;

/** Record batches that no client asks for, from the classes with which Kafka's brokers and clients write theirs. */
public final class Batches {
    private static final long TIME = 1_700_000_000_000L;
    private static final long NONE = -1;
    private static final byte MAGIC = 2;

    private final PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);

    private Batches() { }

    public static void main(String[] arguments) throws Exception {
        Batches batches = new Batches();
        batches.out.println("# kafka-clients, the classes below its record batches");
        batches.markers();
        batches.headers();
        batches.levels();
        batches.old();
        batches.out.flush();
    }

    private void print(String name, ByteBuffer buffer) {
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        out.println(name + " " + HexFormat.of().formatHex(bytes));
    }

    private static List<SimpleRecord> records(int count) {
        List<SimpleRecord> records = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            Header[] headers = i % 2 == 0 ? new Header[0] : new Header[] {new RecordHeader("n", new byte[] {(byte) i})};
            records.add(new SimpleRecord(TIME + i, ("key-" + i).getBytes(), ("value " + i + " ").repeat(3).getBytes(), headers));
        }
        return records;
    }

    private void markers() {
        for (ControlRecordType type : new ControlRecordType[] {ControlRecordType.ABORT, ControlRecordType.COMMIT}) {
            for (int epoch : new int[] {0, Integer.MAX_VALUE}) {
                MemoryRecords marker = MemoryRecords.withEndTransactionMarker(1_000_000_007L, TIME, 9, 4_000_000_000L, (short) 3,
                    new EndTransactionMarker(type, epoch));
                print("control.%s.%d".formatted(type.name().toLowerCase(), epoch), marker.buffer());
            }
        }
        // Of the raft log, which is not for clients: their types are unknown to them.
        ByteBuffer unknown = ByteBuffer.allocate(1024);
        MemoryRecordsBuilder builder = new MemoryRecordsBuilder(unknown, MAGIC, Compression.NONE, TimestampType.CREATE_TIME, 5, NONE,
            NONE, (short) -1, -1, false, true, 1, unknown.capacity());
        builder.appendSnapshotFooterMessage(TIME, new org.apache.kafka.common.message.SnapshotFooterRecord());
        print("control.snapshot-footer", builder.build().buffer());
    }

    /** Every field of the header that a client leaves alone. */
    private void headers() {
        for (String codec : new String[] {"none", "gzip", "snappy", "lz4", "zstd"}) {
            Compression compression = Compression.of(codec).build();
            print("append-time." + codec, build(compression, TimestampType.LOG_APPEND_TIME, 77, TIME + 9_999, NONE, (short) -1, -1, false, NONE, 4));
            print("delete-horizon." + codec, build(compression, TimestampType.CREATE_TIME, 77, NONE, NONE, (short) -1, -1, false, TIME + 86_400_000, 4));
            print("transactional." + codec, build(compression, TimestampType.CREATE_TIME, 0, NONE, Long.MAX_VALUE, Short.MAX_VALUE, 0, true, NONE, 4));
            // The sequences of the records go on at 0.
            print("last-sequence." + codec, build(compression, TimestampType.CREATE_TIME, 0, NONE, 7, (short) 0, Integer.MAX_VALUE, false, NONE, 4));
            print("last-offset." + codec, build(compression, TimestampType.CREATE_TIME, Long.MAX_VALUE - 10, NONE, NONE, (short) -1, -1, false, NONE, 4));
            gaps(codec, compression);
        }
        // What the cleaner leaves of a batch with the last sequence of a producer.
        ByteBuffer empty = ByteBuffer.allocate(DefaultRecordBatch.RECORD_BATCH_OVERHEAD);
        DefaultRecordBatch.writeEmptyHeader(empty, MAGIC, 12, (short) 3, 40, 100, 119, 5, TimestampType.CREATE_TIME, TIME, true, false);
        empty.flip();
        print("empty", empty);
    }

    private void gaps(String codec, Compression compression) {
        ByteBuffer buffer = ByteBuffer.allocate(4096);
        MemoryRecordsBuilder builder = new MemoryRecordsBuilder(buffer, MAGIC, compression, TimestampType.CREATE_TIME, 1000, NONE,
            NONE, (short) -1, -1, false, false, 2, buffer.capacity());
        long[] offsets = {1000, 1003, 1004, 1100, 70_000};
        List<SimpleRecord> records = records(offsets.length);
        for (int i = 0; i < offsets.length; i++) {
            builder.appendWithOffset(offsets[i], records.get(i));
        }
        // The last records are gone too; the header remembers them.
        builder.overrideLastOffset(70_005);
        print("gaps." + codec, builder.build().buffer());
    }

    private static ByteBuffer build(Compression compression, TimestampType type, long base, long appendTime, long producer,
            short epoch, int sequence, boolean transactional, long horizon, int count) {
        ByteBufferOutputStream stream = new ByteBufferOutputStream(4096);
        MemoryRecordsBuilder builder = new MemoryRecordsBuilder(stream, MAGIC, compression, type, base, appendTime, producer, epoch,
            sequence, transactional, false, 8, 4096, horizon);
        records(count).forEach(builder::append);
        return builder.build().buffer();
    }

    private void levels() {
        String[] names = {"gzip.1", "gzip.9", "gzip.-1", "lz4.1", "lz4.17", "zstd.-131072", "zstd.1", "zstd.22"};
        Compression[] codecs = {
            Compression.gzip().level(1).build(), Compression.gzip().level(9).build(), Compression.gzip().level(-1).build(),
            Compression.lz4().level(1).build(), Compression.lz4().level(17).build(),
            Compression.zstd().level(-131072).build(), Compression.zstd().level(1).build(), Compression.zstd().level(22).build(),
        };
        for (int i = 0; i < names.length; i++) {
            print("level." + names[i], build(codecs[i], TimestampType.CREATE_TIME, 0, NONE, NONE, (short) -1, -1, false, NONE, 50));
        }
        print("many.none", build(Compression.NONE, TimestampType.CREATE_TIME, 0, NONE, NONE, (short) -1, -1, false, NONE, 50));
        for (String codec : new String[] {"none", "gzip", "snappy", "lz4", "zstd"}) {
            // Several batches, whole, and cut in the header and in the records of the last.
            ByteBuffer one = build(Compression.of(codec).build(), TimestampType.CREATE_TIME, 0, NONE, NONE, (short) -1, -1, false, NONE, 2);
            ByteBuffer two = build(Compression.of(codec).build(), TimestampType.CREATE_TIME, 2, NONE, NONE, (short) -1, -1, false, NONE, 3);
            byte[] both = new byte[one.remaining() + two.remaining()];
            ByteBuffer.wrap(both).put(one.duplicate()).put(two.duplicate());
            int[] tails = {0, 3, 11, 16, 40, 61, two.remaining() - 1};
            for (int tail : tails) {
                int end = tail == 0 ? both.length : one.remaining() + tail;
                print("tail.%s.%d".formatted(codec, tail), ByteBuffer.wrap(Arrays.copyOf(both, end)));
            }
        }
    }

    /** Message sets of formats 0 and 1. */
    private void old() {
        for (byte magic = 0; magic <= 1; magic++) {
            for (String codec : new String[] {"none", "gzip", "snappy", "lz4"}) {
                ByteBuffer buffer = ByteBuffer.allocate(4096);
                TimestampType type = magic == 0 ? TimestampType.NO_TIMESTAMP_TYPE : TimestampType.CREATE_TIME;
                MemoryRecordsBuilder builder = MemoryRecords.builder(buffer, magic, Compression.of(codec).build(), type, 0);
                for (int i = 0; i < 3; i++) {
                    builder.append(magic == 0 ? NONE : TIME + i, ("key-" + i).getBytes(), ("value " + i).getBytes());
                }
                print("v%d.%s".formatted(magic, codec), builder.build().buffer());
            }
        }
    }
}
