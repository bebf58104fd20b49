import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;

/**
 * Kafka's own client, as the other side of what this project writes and reads. Run from source:
 * `produce <brokers> <topic>:<compression>:<count>...` and `digest <brokers> <topic>...`, which prints for each topic
 * the number of records and the SHA-256 of `<partition> <offset> <key> <value>` lines.
 */
public class KafkaInterop {
  public static void main(String[] args) throws Exception {
    for (int i = 2; i < args.length; i += 1) {
      if (args[0].equals("produce")) produce(args[1], args[i].split(":"));
      else digest(args[1], args[i]);
    }
  }

  private static void produce(String brokers, String[] task) {
    Properties config = new Properties();
    config.put("bootstrap.servers", brokers);
    config.put("compression.type", task[1]);
    config.put("linger.ms", "20");
    config.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
    config.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(config)) {
      for (int n = 0; n < Integer.parseInt(task[2]); n += 1) {
        producer.send(new ProducerRecord<>(task[0], "key " + n % 9, "value number " + n + " of a topic that compresses well"));
      }
    }
  }

  private static void digest(String brokers, String topic) throws Exception {
    Properties config = new Properties();
    config.put("bootstrap.servers", brokers);
    config.put("key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
    config.put("value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
    try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(config)) {
      List<TopicPartition> partitions = new ArrayList<>();
      for (PartitionInfo info : consumer.partitionsFor(topic)) partitions.add(new TopicPartition(topic, info.partition()));
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      long wanted = consumer.endOffsets(partitions).values().stream().mapToLong(Long::longValue).sum();
      TreeMap<String, String> lines = new TreeMap<>();
      while (lines.size() < wanted) {
        for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
          lines.put(String.format("%05d %019d", record.partition(), record.offset()), String.format("%d %d %s %s\n", record.partition(), record.offset(), record.key(), record.value()));
        }
      }
      MessageDigest digest = MessageDigest.getInstance("SHA-256");
      for (String line : lines.values()) digest.update(line.getBytes(StandardCharsets.UTF_8));
      System.out.println(topic + " " + lines.size() + " " + HexFormat.of().formatHex(digest.digest()));
    }
  }
}
