"""A small example of KuaiLive's files in the published format; the released files are not part of the repository."""

from lsec_jax.data.sources.kuailive import Config

T = 1746374400000  # 5 May 2025 in Peking, in milliseconds

USER = """\
user_id,age,gender,country,device_brand,device_price,reg_timestamp,fans_num,follow_num,first_watch_live_timestamp,\
accu_watch_live_cnt,accu_watch_live_duration,is_live_streamer,is_photo_author,onehot_feat0,onehot_feat1,onehot_feat2,\
onehot_feat3,onehot_feat4,onehot_feat5,onehot_feat6
23154,24-30,F,China,APPLE,5000+,2015-01-01,100-1000,1000-10000,,50000-100000,0-1000000000,1,1,1,0,0,0,0,0,1
8505,18-23,M,China,DESKTOP,0,2023-05-03,0-10,10-100,2023-05-04,0-50000,0-1000000000,0,0,0,0,0,0,0,0,0
11504,UNKNOWN,M,,OPPO,0-1000,1970-01-02,0-10,10-100,2023-05-03,0-50000,0-1000000000,0,1,0,1,0,0,0,0,0
"""
STREAMER = """\
streamer_id,gender,age,country,device_brand,device_price,live_operation_tag,fans_user_num,fans_group_fans_num,\
follow_user_num,first_live_timestamp,accu_live_cnt,accu_live_duration,accu_play_cnt,accu_play_duration,reg_timestamp,\
onehot_feat0,onehot_feat1,onehot_feat2,onehot_feat3,onehot_feat4,onehot_feat5,onehot_feat6
56006,M,24-30,China,APPLE,5000+,Relationship,10000-100000,0-10,1000-10000,2018-02-04,100-500,500000000-1000000000,\
100000-500000,50000000000-100000000000,2014-07-03,1,0,0,0,0,0,0
419,F,50+,China,HUAWEI,1000-2000,Music,100000+,10-100,0-1000,2020-01-01,0-100,0-500000000,0-100000,\
0-50000000000,2019-12-31,0,1,0,0,0,0,0
"""
# Room 30 is listed twice, room 20 has no end, room 10 ends as it starts, room 99 is in no event.
ROOM = f"""\
p_date,live_id,streamer_id,live_type,start_timestamp,end_timestamp,live_content_category,live_name_id
20250506,30,419,2,{T - 50_000},{T + 90_000},music,1
20250505,30,419,1,{T - 60_000},{T + 80_000},shop,2
20250505,20,56006,10,{T - 30_000},,shop,0
20250505,10,56006,1,{T},{T},,-1
20250505,99,419,7,{T},{T + 1000},game,0
"""
CLICK = f"""\
user_id,live_id,streamer_id,timestamp,watch_live_time
8505,30,419,{T + 20_000},2852
8505,30,419,{T},10000
23154,20,56006,{T + 1_000},500
8505,20,56006,{T + 40_000},0
8505,10,419,{T + 95_000},1000
"""
NEGATIVE = f"user_id,live_id,streamer_id,timestamp\n11504,20,56006,{T + 1_000}\n23154,30,419,{T + 5_000}\n"
COMMENT = f"""\
user_id,live_id,streamer_id,timestamp
8505,30,419,{T + 10_000}
8505,30,419,{T + 10_001}
23154,30,419,{T + 5_000}
"""
LIKE = f"user_id,live_id,streamer_id,timestamp\n8505,30,419,{T}\n8505,30,419,{T + 22_852}\n8505,30,419,{T + 22_853}\n"
GIFT = f"""\
user_id,live_id,streamer_id,timestamp,gift_price
8505,30,419,{T + 21_000},2
8505,30,419,{T + 20_000},88
23154,30,419,{T + 70_000},5
8505,20,56006,{T + 40_000},1
"""
FILES = {
    "user.csv": USER,
    "streamer.csv": STREAMER,
    "room.csv": ROOM,
    "click.csv": CLICK,
    "negative.csv": NEGATIVE,
    "comment.csv": COMMENT,
    "like.csv": LIKE,
    "gift.csv": GIFT,
}

# Rows that can be appended; each names a user, room or streamer that is not listed.
UNKNOWN = {
    "click.csv": f"7,30,419,{T},1\n8505,31,419,{T},1\n8505,30,420,{T},1\n7,31,420,{T},1\n",
    "negative.csv": f"8505,31,419,{T}\n",
    "comment.csv": f"7,30,419,{T}\n",
    "like.csv": f"8505,30,420,{T}\n",
    "gift.csv": f"8505,31,419,{T},3\n",
    "room.csv": f"20250505,30,77,1,{T - 90_000},,shop,0\n",
}


def write(folder):
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def load(folder, **options):
    return Config(path=str(folder), **options).load()


def change(folder, file, old, new):
    text = (folder / file).read_text()
    assert text.count(old) == 1, (file, old)
    (folder / file).write_text(text.replace(old, new))
