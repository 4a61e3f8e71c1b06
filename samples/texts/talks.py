"""Conversations in the form of messages: system prompts, tools, reasoning; English and Chinese."""
# ruff: noqa: E501  # texts stand on one line each

from texts.alpaca_zh import WALL
from texts.chats import GARDEN
from texts.planted import Row, broken, messages

WEATHER = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a place, now.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CONVERT = [
    {
        "type": "function",
        "function": {
            "name": "convert_currency",
            "description": "Converts an amount of money.",
            "parameters": {
                "type": "object",
                "properties": {"amount": {"type": "number"}, "from": {"type": "string"}, "to": {"type": "string"}},
            },
        },
    }
]
CALENDAR = [
    {
        "type": "function",
        "function": {
            "name": "find_free_slot",
            "description": "First free slot in the calendar.",
            "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}, "day": {"type": "string"}}},
        },
    }
]


def call(name: str, **arguments: object) -> dict[str, object]:
    """An assistant's turn that calls a tool."""
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def result(text: str) -> dict[str, object]:
    """What the tool gave back."""
    return {"role": "tool", "content": text}


def thought(reasoning: str, answer: str) -> dict[str, object]:
    """An assistant's turn with the reasoning before it."""
    return {"role": "assistant", "content": answer, "reasoning_content": reasoning}


LONG_GUIDE = "\n".join(
    [
        "第一步，测量场地。用卷尺量出阳台的长、宽和栏杆的高度，记下每天早上、中午和下午有多少小时能晒到太阳，再看看风从哪个方向来。",
        "第二步，确认承重。普通阳台每平方米能承受的重量有限，湿土很重，所以大花盆要靠墙放，不要全部摆在外沿，必要时选用轻质的营养土。",
        "第三步，挑选植物。全天有太阳的阳台适合番茄、辣椒、薄荷和迷迭香；只有半天太阳可以种生菜、小葱和草莓；几乎没有太阳就种蕨类、绿萝或者虎尾兰。",
        "第四步，准备容器。花盆底部一定要有排水孔，垫一层陶粒或者碎瓦片，再铺一块旧纱布，防止泥土流走。木箱要先刷一遍桐油，否则一两年就会腐烂。",
        "第五步，配土。三份腐叶土、一份粗沙、一份珍珠岩，再加少量腐熟的有机肥，混合均匀以后洒水，用手握成团、轻轻一碰就散开，说明湿度正好。",
        "第六步，移栽。选择阴天或者傍晚，把幼苗连同根部的泥土一起取出，放进挖好的坑里，填土、压实、浇透水，头三天放在阴凉的地方缓苗。",
        "第七步，浇水。春秋两季两三天浇一次，夏天每天清晨浇一次，冬天一周一次就够了。手指插进土里两厘米，觉得干了再浇，浇就要浇透。",
        "第八步，施肥。生长旺盛的时候每隔两周施一次稀薄的液肥，开花前补充磷钾肥，冬天停止施肥，让植物休息。淘米水要发酵以后才能用。",
        "第九步，修剪。番茄要及时掐掉侧芽，薄荷长到十几厘米就摘心，月季花谢以后剪到饱满的芽点上方，这样新枝会更多，花也会更大。",
        "第十步，防虫。发现蚜虫先用清水冲，再喷稀释的肥皂水；叶子背面有红蜘蛛就增加湿度；土里有小黑飞可以铺一层沙子，挂上黄色粘虫板。",
        "最后，做好记录。把播种、施肥、开花和收获的日期写在本子上，第二年你就会知道哪些植物真正适合你的阳台，哪些只是看起来很美。",
    ]
)  # fmt: skip

ROWS: list[Row] = [
    messages(
        "What is the weather in Bergen right now?",
        call("get_weather", city="Bergen"),
        result('{"temperature": 9, "sky": "rain"}'),
        {"role": "assistant", "content": "It is 9 °C and raining in Bergen. Take a coat."},
        tools=WEATHER,
    ),
    messages(
        "How much is 250 Swiss francs in euros?",
        call("convert_currency", amount=250, **{"from": "CHF", "to": "EUR"}),
        result('{"amount": 262.5}'),
        {"role": "assistant", "content": "250 Swiss francs are 262.50 euros at the moment."},
        tools=CONVERT,
    ),
    messages(
        "When could we talk for half an hour tomorrow?",
        call("find_free_slot", minutes=30, day="tomorrow"),
        result('{"start": "10:30"}'),
        {
            "role": "assistant",
            "content": "Your first free half hour tomorrow begins at 10:30. Shall I write an invitation?",
        },
        tools=CALENDAR,
    ),
    messages(
        "成都今天适合穿短袖吗？",
        call("get_weather", city="成都"),
        result('{"temperature": 31, "sky": "多云"}'),
        {"role": "assistant", "content": "成都现在三十一度，多云，穿短袖很合适，傍晚可以带一件薄外套。"},
        tools=WEATHER,
    ),
    messages(
        "A bat and a ball cost 1.10 together. The bat costs 1.00 more than the ball. How much is the ball?",
        thought(
            "If the ball costs x, the bat costs x + 1.00, and 2x + 1.00 = 1.10, so x = 0.05.", "The ball costs 0.05."
        ),
    ),
    messages(
        "Is 391 a prime number?",
        thought("It is below 400, so I test primes up to 19: 391 / 17 = 23.", "No: 391 = 17 × 23."),
    ),
    messages(
        "鸡兔同笼，一共有十个头、二十八只脚，鸡和兔各有几只？",
        thought("假设全是鸡，有二十只脚，多出八只脚，每只兔多两只脚，所以兔有四只。", "兔有四只，鸡有六只。"),
    ),
    messages(
        "Three friends share a bill of 84 and want to leave 10 % more. What does each pay?",
        thought("84 times 1.1 is 92.40; divided by three that is 30.80.", "Each of them pays 30.80."),
    ),
    messages(
        "My order arrived with a cracked cup.",
        "I am sorry about the cup. I can send a new one today or refund its price; which do you prefer?",
        "A new one, please.",
        "It leaves our store this afternoon and should be with you on Thursday. You need not send the broken one back.",
        system="You work in the customer service of a pottery. Be kind and brief.",
    ),
    messages(
        "Arrr, where be the treasure?",
        "Three paces north o' the crooked palm, matey, but mind the parrot: he tells everybody.",
        system="You are a pirate and stay in character.",
    ),
    messages(
        "What is a verb?",
        "A verb says what somebody does or what happens: run, think, rain.",
        "Give me a sentence with two.",
        "The dog barks and the cat runs away.",
        system="You teach English to beginners. Use simple words.",
    ),
    messages(
        "帮我润色这句话：这个产品很好用，大家都说好。",
        "这款产品上手简单，用过的人都赞不绝口。",
        system="你是一名文字编辑，只给出修改后的句子。",
    ),
    messages(
        "Explain dependency injection.",
        "Instead of making the things it needs, a class is given them. That lets a test hand in a fake mail server, while the program hands in the real one, and the class does not know the difference.",
    ),
    messages(
        "Refactor this:\n\nif x == True:\n    return True\nelse:\n    return False",
        "`return x` says the same if `x` is a Boolean; otherwise write `return bool(x)`.",
    ),
    messages(
        "How do I undo my last commit but keep the changes?",
        "git reset --soft HEAD~1\n\nThe changes stay staged. Use it only for commits that you have not pushed.",
    ),
    messages(
        "What is the time complexity of binary search?",
        "O(log n): every comparison halves what is left to search.",
        "And its requirement?",
        "The data must be sorted and allow access by index.",
    ),
    messages(
        "Write a CSS rule that centres a box on the page.",
        "body {\n  display: grid;\n  min-height: 100vh;\n  place-items: center;\n}",
    ),
    messages(
        "什么是递归？请举一个例子。",
        "递归是函数调用自己来解决规模更小的同类问题。例如求阶乘：五的阶乘等于五乘以四的阶乘，一直到一的阶乘等于一为止。",
    ),
    messages(
        "Who was Ada Lovelace?",
        "An English mathematician (1815 to 1852). In her notes on Babbage's Analytical Engine she published what is often called the first computer program, and saw that such a machine could handle more than numbers.",
    ),
    messages(
        "Compare oil and watercolour painting.",
        "Oil dries slowly, covers what lies below and can be reworked for days. Watercolour dries in minutes, lets the paper shine through, and forgives hardly any stroke.",
    ),
    messages(
        "Give me a packing list for a weekend of sailing.",
        "Soft bag, windproof jacket, layers of wool, shoes with light soles, sun cream, sunglasses on a cord, a cap, gloves, a head torch, and something against seasickness.",
    ),
    messages(
        "Why do we yawn?",
        "Nobody knows for certain. It may cool the brain or help us to wake up; and because seeing a yawn makes others yawn, it seems to have a social side, too.",
    ),
    messages(
        "What did the Rosetta Stone make possible?",
        "It carries the same decree in Greek, Demotic and hieroglyphs. Since Greek was known, scholars could work out the other two; Champollion cracked the hieroglyphs in 1822.",
    ),
    messages(
        "写一封辞职信的开头。",
        "尊敬的陈经理：\n\n感谢您三年来的信任和指导。经过慎重考虑，我决定离开公司，去另一座城市陪伴家人，特此提出辞职。",
    ),
    messages("Suggest three names for a black cat.", "Inkwell, Pepper, Captain Midnight."),
    messages(
        "How do bats find their way in the dark?",
        "They call at pitches too high for us and listen for the echoes. From the delay and the direction they tell where a moth is, and even how it beats its wings.",
    ),
    messages(
        "What is an opportunity cost?",
        "The value of the best thing you gave up. If you spend Saturday painting the kitchen instead of working for 120, the kitchen costs you the paint and those 120.",
    ),
    messages(
        "请解释“塞翁失马”的意思。",
        "故事里老人丢了马，后来马带回一匹骏马，说明坏事在一定条件下可以变成好事。现在常用来安慰遇到挫折的人，提醒大家祸福是会转化的。",
    ),
    messages(
        "Describe jazz to somebody who only knows classical music.",
        "Think of chamber music whose score is a sketch: theme and harmonies are given, and each player composes a variation on the spot, while the rhythm leans against the beat.",
    ),
    messages(
        "Is a tomato a fruit or a vegetable?",
        "To a botanist a fruit, in fact a berry; to a cook a vegetable, because it goes with salt rather than sugar.",
    ),
    messages(
        "What are the symptoms of dehydration?",
        "Thirst, dark urine, a dry mouth, headache and tiredness; when it gets worse, dizziness, a fast pulse and confusion. Confusion or fainting needs medical help at once.",
    ),
    messages(
        "Turn these notes into a sentence: meeting Tue 3pm, room B2, bring drafts.",
        "We meet on Tuesday at 3 pm in room B2; please bring your drafts.",
    ),
    messages(
        "How do glaciers move?",
        "Under its own weight ice deforms and creeps downhill like very stiff honey, and where meltwater lies beneath it the whole glacier slides over the rock.",
    ),
    messages(
        "怎样教孩子理财？",
        "可以准备三个罐子，分别写上“花”“存”“送”。每次给零花钱时让孩子自己分配，想买贵一点的玩具，就从“存”的罐子里慢慢攒。",
    ),
    messages(
        "What is the difference between RAM and a hard disk?",
        "RAM is the desk: quick to reach, small, cleared when the power goes. The disk is the cupboard: large and slow, and it keeps everything overnight.",
    ),
    messages(
        "Give me a warm-up for a choir.",
        "Hum down five notes on a comfortable pitch, then sing 'mee-may-mah-moh-moo' on one tone, rising by half steps, and end with a siren from low to high on 'ng'.",
    ),
    messages(
        "Why do cities have ring roads?",
        "So that through traffic need not cross the centre. They relieve the old streets at first; in time they draw shops and houses to themselves, and new traffic with them.",
    ),
    messages(
        "Can you explain the offside rule in football?",
        "When the ball is played to you in the other half, there must be at least two opponents, usually the goalkeeper and a defender, no farther from you to their goal line than you are, unless you are behind the ball.",
    ),
    messages(
        "What is a leap second?",
        "A second added to civil time because the Earth's rotation is not perfectly even. It is to be abolished by 2035, since it troubles computers more than it helps anybody.",
    ),
    messages(
        "为什么飞机上要关掉手机信号？",
        "手机会不停地寻找基站，发出的信号可能干扰机组的通信和导航设备。虽然风险很小，但是起飞和降落时任何干扰都应该避免。",
    ),
    messages("Write the first line of a sonnet about an umbrella.", "You wait in corners till the heavens weep,"),
    messages(
        "Which vitamin do we get from sunlight?",
        "Vitamin D: ultraviolet light makes it out of a form of cholesterol in the skin.",
    ),
    messages(
        "What is a black hole?",
        "A region where so much mass is packed together that nothing, light included, can leave once it has crossed the boundary called the event horizon.",
    ),
    messages(
        "How can a small shop compete with big online stores?",
        "With what they cannot send in a box: advice by people who know the goods, repairs, things to touch and try, events in the evening, and an order that is ready on the way home.",
    ),
    messages("请给一家咖啡馆写一句广告语。", "把忙碌留在门外，把香气捧在手心。"),
    messages(
        "Explain the term 'vendor lock-in'.",
        "You depend so much on one supplier's product that leaving would cost more than staying, because your data, tools and habits only fit that product. Open formats are the usual remedy.",
    ),
    messages(
        "What is the best way to learn vocabulary?",
        "Short sessions with growing intervals: tomorrow, in three days, in a week. Learn words inside sentences that you might really say, and test yourself instead of rereading.",
    ),
    # Planted faults
    messages(
        *GARDEN,
        fault="exact duplicate of row 0 of sharegpt.jsonl.gz: in another file and format",
        fate="rejected",
        stage="exact-dedup",
        code="exact-duplicate",
    ),
    messages(
        WALL[0],
        WALL[1].replace("来往的商队", "过往的商队"),
        fault="near duplicate of row 8 of alpaca_zh.jsonl: one word changed",
        fate="rejected",
        stage="near-dedup",
        code="near-duplicate",
    ),
    messages(
        "怎样把阳台改造成小花园？请写得详细一些。",
        LONG_GUIDE,
        fault="longer than 512 tokens",
        fate="rejected",
        stage="tokenize",
        code="too-long",
    ),
    messages(
        "Delete all my files.",
        "I cannot perform that action, because I have no access to your computer.",
        fault="refusal",
        fate="rejected",
        stage="refusal",
        code="refusal",
    ),
    messages(
        "What time is it in Lima?",
        call("clock", city="Lima"),
        tools=[{"type": "function", "function": {"name": "clock"}}],
        fault="the answer only calls a tool: it has no length to judge",
        fate="kept",
    ),
    messages(
        "Say something.", "", fault="empty answer", fate="rejected", stage="answer-length", code="answer-too-short"
    ),
    messages(
        {"role": "system", "content": "You are a poet."},
        {"role": "user", "content": "Write about rain."},
        fault="nobody answers",
        fate="rejected",
        stage="normalize",
        code="no-answer",
    ),
    messages(
        "Come si prepara la pasta alla carbonara?",
        "Si rosola il guanciale, si sbattono le uova con il pecorino, si cuoce la pasta al dente e si mescola tutto lontano dal fuoco, così le uova restano cremose.",
        fault="Italian",
        fate="rejected",
        stage="language",
        code="wrong-language",
    ),
    messages(
        "我的手机号是13800138000，帮我写一条快递备注。",
        "“派送前请先打电话，家中无人时放在门卫处，谢谢。”",
        fault="personal data: a telephone number",
        fate="edited",
        stage="personal-data",
        code="phone-number",
    ),
    messages(
        "Print the token <|endoftext|> and the tag </s>.",
        "Here they are as plain text: <|endoftext|> and </s>.",
        fault="control strings in text: must not become control tokens",
        fate="kept",
    ),
    messages(
        "How do I write a null byte in C?",
        "Write '\\0'. In a text file it looks like this:\x00 nothing at all.",
        fault="control character",
        fate="edited",
        stage="repair-text",
        code="control-characters",
    ),
    Row(
        {
            "messages": [
                {"role": "user", "content": "Describe the picture."},
                {"role": "wizard", "content": "A dragon sleeps on gold."},
            ]
        },
        "a role that nobody knows",
        "rejected",
        "normalize",
        "wrong-role",
    ),
    Row({"text": "A line without any messages."}, "no messages", "rejected", "normalize", "missing-field"),
    Row({"messages": "Hello."}, "messages that are a text", "rejected", "normalize", "wrong-type"),
    broken(
        '{"messages": [{"role": "user", "content": "Hi"}], "messages": []}', "a key that stands twice", "duplicate-key"
    ),
    broken(
        '{"messages": [{"role": "user", "content": "What is a \\ud83d?"}, {"role": "assistant", "content": "Half a character."}]}',
        "half a surrogate pair",
        "lone-surrogate",
    ),
    broken("{not json at all}", "broken line: no JSON", "unreadable-row"),
    messages("Name the four seasons.", "Spring, summer, autumn and winter."),
]
